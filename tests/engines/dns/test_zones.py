"""Local zones: which zone and record decides, merging, bounds, and that no name of a zone goes elsewhere."""

import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dns import zones as dns_zones
from pipeline.engines.dns.zones import (
    AAAA,
    ANY,
    NOERROR,
    NXDOMAIN,
    PTR,
    A,
    Local,
    ZoneError,
    Zones,
    parse_zone,
)

SUBNET = (0xC0A87F00, 0xFFFFFF00)


def record(name: str = "", ip: str = "", regexp: str = "") -> dict[str, str]:
    return {"Name": name, "IP": ip, "Regexp": regexp}


def zones(*rows: tuple[str, list[dict[str, str]], str]) -> Zones:
    return Zones(
        (parse_zone({"Name": name, "Records": records, "DefaultIP": ip}) for name, records, ip in rows),
        SUBNET,
    )


def default_zones() -> Zones:
    records = [record("gateway", "192.168.127.1"), record("host", "192.168.127.254")]
    return zones(("containers.internal.", records, ""), ("docker.internal.", records, ""))


def ask(table: Zones, name: str, rdtype: int = A) -> str:
    """The outcome as a word: address, "empty", "nxdomain" or "elsewhere"."""
    local = table.resolve([label.encode() for label in name.split(".") if label], rdtype)
    if local is None:
        return "elsewhere"
    if local.addresses:
        assert local.rcode == NOERROR
        address = local.addresses[0]
        return socket.inet_ntoa(address) if len(address) == 4 else "six"
    if local.pointer:
        return local.pointer
    return "empty" if local.rcode == NOERROR else "nxdomain"


@pytest.mark.parametrize(
    "name, rdtype, outcome",
    [
        ("gateway.containers.internal", A, "192.168.127.1"),
        ("HOST.Containers.INTERNAL", A, "192.168.127.254"),
        ("host.docker.internal", ANY, "192.168.127.254"),
        ("host.docker.internal", AAAA, "empty"),
        ("host.docker.internal", 16, "empty"),
        ("nobody.docker.internal", A, "nxdomain"),
        ("nobody.docker.internal", 15, "nxdomain"),
        ("x.host.docker.internal", A, "nxdomain"),
        ("docker.internal", A, "empty"),
        ("docker.internal", 6, "empty"),
        ("internal", A, "elsewhere"),
        ("xdocker.internal", A, "elsewhere"),
        ("example.com", A, "elsewhere"),
        ("", A, "elsewhere"),
        ("1.127.168.192.in-addr.arpa", PTR, "gateway.containers.internal"),
        ("254.127.168.192.IN-ADDR.arpa", PTR, "host.containers.internal"),
        ("254.127.168.192.in-addr.arpa", A, "empty"),
        ("9.127.168.192.in-addr.arpa", PTR, "nxdomain"),
        ("1.0.168.192.in-addr.arpa", PTR, "elsewhere"),
        ("300.127.168.192.in-addr.arpa", PTR, "elsewhere"),
        ("127.168.192.in-addr.arpa", PTR, "elsewhere"),
        ("0.1.127.168.192.in-addr.arpa", PTR, "elsewhere"),
    ],
)
def test_default_zones_answer_theirs_and_nothing_else(name: str, rdtype: int, outcome: str) -> None:
    assert ask(default_zones(), name, rdtype) == outcome


def test_first_zone_in_the_list_decides_not_the_closest() -> None:
    table = zones(
        ("dynamic.testing.", [], "10.0.0.1"),
        ("testing.", [record("a.late", "10.0.0.2"), record("dynamic", "10.0.0.3")], ""),
        ("late.testing.", [], "10.0.0.4"),
    )
    assert ask(table, "*.dynamic.testing") == "10.0.0.1"
    assert ask(table, "a.late.testing") == "10.0.0.2"
    assert ask(table, "b.late.testing") == "nxdomain"
    # The zone's own name lies below another zone, which decides.
    assert ask(table, "dynamic.testing") == "10.0.0.3"


def test_records_decide_in_order_then_the_default_at_any_depth() -> None:
    table = zones(
        (
            "t.",
            [record("a", "1.1.1.1"), record(regexp="^A", ip="2.2.2.2"), record("ab", "3.3.3.3")],
            "9.9.9.9",
        )
    )
    assert [ask(table, f"{name}.t") for name in ("a", "ab", "b", "x.y.z")] == [
        "1.1.1.1",
        "2.2.2.2",
        "9.9.9.9",
        "9.9.9.9",
    ]
    assert ask(table, "x.t", AAAA) == "empty"


def test_pattern_is_tried_on_the_part_before_the_zone_and_is_not_anchored() -> None:
    table = zones(
        ("zone.test.", [record(regexp="web[0-9]", ip="1.1.1.1"), record(regexp="zone", ip="2.2.2.2")], "")
    )
    assert ask(table, "my.WEB1x.zone.test") == "1.1.1.1"
    assert ask(table, "web.zone.test") == "nxdomain"
    assert ask(table, "zone.zone.test") == "2.2.2.2"


def test_record_with_name_and_pattern_matches_by_either() -> None:
    table = zones(("t.", [record("only", "1.1.1.1", "^x")], ""))
    assert [ask(table, f"{name}.t") for name in ("only", "xy", "other")] == ["1.1.1.1", "1.1.1.1", "nxdomain"]


def test_address_families_are_kept_apart() -> None:
    table = zones(
        ("t.", [record("six", "fd00::1"), record("both", "fd00::2"), record("both", "1.2.3.4")], "")
    )
    assert (ask(table, "six.t", AAAA), ask(table, "six.t", A)) == ("six", "empty")
    assert (ask(table, "both.t", AAAA), ask(table, "both.t", A)) == ("six", "1.2.3.4")
    assert ask(zones(("t.", [record("m", "::ffff:1.2.3.4")], "")), "m.t") == "1.2.3.4"


def test_record_without_address_makes_the_name_empty() -> None:
    table = zones(("t.", [record("a"), record("a", "1.1.1.1")], "2.2.2.2"))
    assert ask(table, "a.t") == "empty"


def test_name_above_a_record_is_empty_and_not_missing() -> None:
    table = zones(("t.", [record("a.b", "1.1.1.1")], ""))
    assert [ask(table, name) for name in ("a.b.t", "b.t", "c.t")] == ["1.1.1.1", "empty", "nxdomain"]


def test_zone_itself_has_the_default_or_the_nameless_records_address() -> None:
    assert ask(zones(("t.", [], "1.1.1.1")), "t") == "1.1.1.1"
    assert ask(zones(("t.", [record("", "2.2.2.2")], "1.1.1.1")), "T") == "2.2.2.2"


@pytest.mark.parametrize("name", ["nodot.internal", "nodot.internal.", "NoDot.Internal"])
def test_final_dot_and_case_of_a_zone_name_do_not_matter(name: str) -> None:
    assert ask(zones((name, [record("a.", "1.1.1.1")], "")), "A.nodot.internal") == "1.1.1.1"


@pytest.mark.parametrize("name", ["", "."])
def test_zone_without_name_is_the_zone_of_all_names(name: str) -> None:
    table = zones((name, [record("www.example.com", "1.1.1.1")], ""))
    assert ask(table, "www.example.com") == "1.1.1.1"
    assert ask(table, "example.org") == "nxdomain"
    assert ask(table, "", 2) == "empty"


def test_label_with_a_dot_in_it_is_not_two_labels() -> None:
    table = zones(("t.", [record("a.b", "1.1.1.1")], ""))
    assert table.resolve([b"a.b", b"t"], A) == Local(NXDOMAIN)


# --- adding -------------------------------------------------------------------------------


def test_adding_to_a_zone_puts_records_in_front_and_replaces_the_default() -> None:
    table = zones(("t.", [record("a", "1.1.1.1")], "9.9.9.9"), ("u.", [], "8.8.8.8"))
    table.add(parse_zone({"name": "T", "records": [{"name": "a", "ip": "2.2.2.2"}]}))
    table.add(parse_zone({"name": "t.", "records": [{"name": "b", "ip": "3.3.3.3"}], "defaultIP": None}))
    assert [ask(table, f"{name}.t") for name in "abc"] == ["2.2.2.2", "3.3.3.3", "nxdomain"]
    assert table.as_list() == [
        {
            "Name": "t.",
            "Records": [
                {"Name": "b", "IP": "3.3.3.3"},
                {"Name": "a", "IP": "2.2.2.2"},
                {"Name": "a", "IP": "1.1.1.1"},
            ],
            "DefaultIP": "",
        },
        {"Name": "u.", "Records": [], "DefaultIP": "8.8.8.8"},
    ]


def test_zones_are_shown_as_the_api_shows_them() -> None:
    table = zones(
        ("test.internal.", [record("gateway", "192.168.127.1"), record(regexp="^a", ip="fd00::1")], "")
    )
    assert table.as_list() == [
        {
            "Name": "test.internal.",
            "Records": [
                {"Name": "gateway", "IP": "192.168.127.1"},
                {"Name": "", "IP": "fd00::1", "Regexp": "^a"},
            ],
            "DefaultIP": "",
        }
    ]


@pytest.mark.parametrize(
    "zone, text",
    [
        ({"Name": "t.", "DefaultIP": "1.2.3"}, "invalid IP address: 1.2.3"),
        ({"Name": "t.", "Records": [{"IP": "x"}]}, "invalid IP address: x"),
        ({"Name": "t.", "Records": [{"Regexp": "("}]}, "error parsing regexp: missing closing ): `(`"),
        ({"Name": 5}, "name must be a text"),
        ({"Name": "t.", "Records": {}}, None),
        ({"Name": "t.", "Records": "abc"}, "Records must be a list"),
        ({"Name": "t.", "Records": [5]}, "a record must be a map of Name, IP and Regexp"),
        ({"Name": "t" * 300}, "zone name is longer than 253 characters"),
        ({"Records": [{"Name": "t" * 300}]}, "record name is longer than 253 characters"),
        ({"Records": [{}] * 1025}, "a zone has at most 1024 records"),
    ],
)
def test_senseless_zones_are_refused_with_a_reason(zone: dict[str, Any], text: str | None) -> None:
    if text is None:
        assert parse_zone(zone).records == ()
        return
    with pytest.raises(ZoneError) as caught:
        parse_zone(zone)
    assert str(caught.value) == text


def test_number_of_zones_is_bounded() -> None:
    table = zones(*((f"z{n}.", [], "") for n in range(dns_zones.MAX_ZONES)))
    with pytest.raises(ZoneError):
        table.add(parse_zone({"Name": "more."}))
    table.add(parse_zone({"Name": "z7.", "DefaultIP": "1.1.1.1"}))
    assert ask(table, "a.z7") == "1.1.1.1"


def test_the_same_record_may_be_added_again_for_ever_but_new_ones_end_at_the_bound() -> None:
    table = Zones()
    full = {"Name": "t.", "Records": [record(f"r{n}", "1.1.1.1") for n in range(dns_zones.MAX_RECORDS - 1)]}
    table.add(parse_zone(full))
    for n in range(5):
        table.add(parse_zone({"Name": "t.", "Records": [record("again", "2.2.2.2")]}))
        assert ask(table, "again.t") == "2.2.2.2", n
        assert ask(table, "r1022.t") == "1.1.1.1"
    with pytest.raises(ZoneError):
        table.add(parse_zone({"Name": "t.", "Records": [record("new", "3.3.3.3")]}))
    assert ask(table, "new.t") == "nxdomain"


# --- hostile ------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=20), st.integers(0, 65535))
@settings(max_examples=200, deadline=None)
def test_any_name_has_an_outcome_and_no_name_of_a_zone_goes_elsewhere(
    labels: list[bytes], rdtype: int
) -> None:
    table = default_zones()
    table.resolve(labels, rdtype)
    assert table.resolve([*labels, b"Docker", b"internal"], rdtype) is not None


# --- guests' names ------------------------------------------------------------------------


def test_a_guests_name_counts_where_no_record_decides() -> None:
    rows = [record("db", "10.0.0.1"), record("six", "fd00::1"), record(regexp="^x[0-9]+$", ip="10.0.0.2")]
    table = zones(("vm.internal.", rows, "10.9.9.9"))
    names = {"web": bytes((192, 168, 127, 3)), "db": bytes(4), "six": bytes(4), "x1": bytes(4)}
    pointers = {bytes((192, 168, 127, 3)): "web.vm.internal"}
    table.add_guests("vm.internal", names, pointers)
    assert ask(table, "WEB.vm.internal") == "192.168.127.3"
    assert ask(table, "web.vm.internal", ANY) == "192.168.127.3"
    assert ask(table, "web.vm.internal", AAAA) == "empty"
    assert ask(table, "db.vm.internal") == "10.0.0.1"
    assert ask(table, "six.vm.internal") == "empty"
    assert ask(table, "x1.vm.internal") == "10.0.0.2"
    assert ask(table, "a.web.vm.internal") == "10.9.9.9"
    assert ask(table, "web") == "elsewhere"
    assert ask(table, "3.127.168.192.in-addr.arpa", PTR) == "web.vm.internal"
    assert [table.has_record("vm.internal", label) for label in ("db", "x77", "web")] == [True, True, False]
    names.clear()
    pointers.clear()
    assert ask(table, "web.vm.internal") == "10.9.9.9"
    assert ask(table, "3.127.168.192.in-addr.arpa", PTR) == "nxdomain"


def test_guests_names_may_have_a_zone_of_their_own_and_are_listed() -> None:
    table = default_zones()
    table.ensure("vm")
    table.add_guests("vm", {"web": bytes((192, 168, 127, 3))}, {})
    assert ask(table, "web.vm") == "192.168.127.3"
    assert ask(table, "other.vm") == "nxdomain"
    assert ask(table, "vm") == "empty"
    assert ask(table, "web.containers.internal") == "nxdomain"
    assert not table.has_record("vm", "gateway")
    assert table.as_list()[-1] == {
        "Name": "vm.",
        "Records": [{"Name": "web", "IP": "192.168.127.3"}],
        "DefaultIP": "",
    }


def test_a_record_that_is_added_later_wins_over_a_guest() -> None:
    table = default_zones()
    table.ensure("vm")
    table.add_guests("vm", {"web": bytes(4)}, {bytes((192, 168, 127, 3)): "web.vm"})
    table.add(
        parse_zone({"Name": "vm.", "Records": [record("web", "192.168.127.3"), record("a", "192.168.127.3")]})
    )
    assert ask(table, "web.vm") == "192.168.127.3"
    table.add(parse_zone({"Name": "vm.", "Records": [record("first", "192.168.127.3")]}))
    assert ask(table, "3.127.168.192.in-addr.arpa", PTR) == "first.vm"
