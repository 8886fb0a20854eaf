"""The resolver stage: DHCP and DNS datagrams, control requests, and what floods cannot do."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest
import structlog

from pipeline.config.model import Config, EgressPolicy, PolicyRule, Record, Zone
from pipeline.engines.dns.zones import ZoneError
from pipeline.histograms import BY_NAME
from pipeline.ipc.arena import HEADROOM
from pipeline.records import kinds
from pipeline.records.guests import LinkNotice
from pipeline.stages.resolver import replies
from pipeline.wire import dhcp
from tests.support.configured import changed
from tests.support.poller import LIMIT
from tests.support.resolver_rig import BROADCAST, GATEWAY, GUEST, Rig, query, texts


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, [])
    yield made
    made.close()


# --- DHCP ---------------------------------------------------------------------------------


def discover(mac: str = "5a94efe40cee", kind: int = dhcp.DISCOVER) -> bytes:
    options = {dhcp.MESSAGE_TYPE: bytes((kind,))}
    return dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 1, bytes.fromhex(mac), options))


def test_dhcp_reply_to_a_guest_without_address_goes_to_all_on_its_link(rig: Rig) -> None:
    rig.send(discover(), 67, guest_addr=0, remote=BROADCAST, guest_port=68, link=9)
    record, payload = rig.reply()
    assert record == {
        "link": 9,
        "guest": BROADCAST,
        "guest_port": 68,
        "remote": GATEWAY,
        "remote_port": 67,
        "off": HEADROOM,
    }
    offer = dhcp.parse(payload, 0, len(payload))
    assert (offer.kind, offer.yiaddr) == (dhcp.OFFER, GUEST)
    assert rig.count("dhcp_offer_sent") == 1


def test_dhcp_renewal_is_answered_to_the_guests_address(rig: Rig) -> None:
    rig.send(discover("020000000001", dhcp.REQUEST), 67, guest_addr=GUEST + 1, guest_port=68)
    record, _ = rig.reply()
    assert (record["guest"], record["remote"]) == (GUEST + 1, GATEWAY)


def test_leases_are_shown_with_gateway_and_static_ones(rig: Rig) -> None:
    rig.send(discover("020000000001"), 67, guest_addr=0, guest_port=68)
    rig.reply()
    assert rig.request({"op": "leases"}) == {
        "leases": {
            "192.168.127.1": "5a:94:ef:e4:0c:dd",
            "192.168.127.2": "5a:94:ef:e4:0c:ee",
            "192.168.127.3": "02:00:00:00:00:01",
        }
    }
    assert rig.count("dhcp_leases") == 2


def test_host_address_is_never_given_out(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ["-subnet", "192.168.127.0/29"])
    for n in range(8):
        rig.send(discover(f"02000000000{n}", dhcp.REQUEST), 67, guest_addr=0, guest_port=68)
        rig.breathe()
    given = [dhcp.parse(payload, 0, len(payload)).yiaddr & 0xFF for _, payload in rig.replies()]
    assert given == [3, 4, 5]
    assert rig.count("dhcp_message_dropped_no_address") == 5
    rig.close()


def test_hardware_addresses_that_one_guest_makes_up_leave_leases_to_the_next(rig: Rig) -> None:
    for n in range(256):
        rig.send(discover(f"0200000000{n:02x}", dhcp.REQUEST), 67, guest_addr=0, guest_port=68, link=3)
        rig.breathe()
        rig.replies()
    assert rig.count("dhcp_message_dropped_too_many_of_guest") == 256 - 251 + 8
    assert rig.count("dhcp_leases") == 252 - 8
    rig.send(discover("020000000900"), 67, guest_addr=0, guest_port=68, link=4)
    record, payload = rig.reply()
    assert (record["link"], dhcp.parse(payload, 0, len(payload)).kind) == (4, dhcp.OFFER)


def test_a_guest_that_reconnects_leaves_leases_to_the_next(rig: Rig) -> None:
    for link in range(3, 8):
        for n in range(64):
            rig.send(discover(f"02000000{link:02x}{n:02x}", dhcp.REQUEST), 67, guest_addr=0, link=link)
            rig.breathe()
            rig.replies()
        rig.to_stage.push(LinkNotice.pack(kinds.LINK_DOWN, link, link))
        rig.to_stage.publish()
        rig.breathe()
    assert rig.count("dhcp_ack_sent") == 5 * 64
    rig.send(discover("020000000900"), 67, guest_addr=0, link=3)
    record, payload = rig.reply()
    assert (record["link"], dhcp.parse(payload, 0, len(payload)).kind) == (3, dhcp.OFFER)


def test_links_that_one_peer_opens_share_what_one_guest_gets(rig: Rig) -> None:
    for link in range(3, 8):
        rig.to_stage.push(LinkNotice.pack(kinds.LINK_UP, link, 99))
    rig.to_stage.publish()
    rig.upstream.silent = True
    start = monotonic()
    for link in range(3, 8):
        for n in range(110):
            rig.send(query(f"n{n}.of{link}.example"), 53, link=link, guest_port=4000 + n)
            rig.send(discover(f"02000000{link:02x}{n:02x}", dhcp.REQUEST), 67, guest_addr=0, link=link)
            rig.breathe(start)
            rig.replies()
    assert (rig.count("dns_pending"), rig.count("dns_queued")) == (512, 38)
    assert rig.count("dhcp_message_dropped_too_many_of_guest") == 550 - 251 + 8
    rig.send(discover("020000000900"), 67, guest_addr=0, link=8)
    rig.breathe(start)
    [(_, payload)] = rig.replies()
    assert dhcp.parse(payload, 0, len(payload)).kind == dhcp.OFFER


# --- DNS ----------------------------------------------------------------------------------


def test_a_link_that_is_over_is_never_taken_for_another_guest(rig: Rig) -> None:
    for link, guest in ((1, 2), (2, 1)):
        rig.to_stage.push(LinkNotice.pack(kinds.LINK_UP, link, guest))
    rig.to_stage.push(LinkNotice.pack(kinds.LINK_DOWN, 1, 2))
    rig.to_stage.publish()
    rig.breathe()
    assert rig.stage.guest_of(2) == 1
    assert rig.stage.guest_of(1) not in (1, 2)


def test_local_names_hosts_and_upstream_are_answered(rig: Rig) -> None:
    assert texts(rig.ask("host.containers.internal")) == ["192.168.127.254"]
    assert texts(rig.ask("gateway.docker.internal")) == ["192.168.127.1"]
    assert texts(rig.ask("nas.home")) == ["10.9.9.9"]
    assert rig.upstream.queries == 0
    assert texts(rig.ask("www.example.com")) == ["10.1.2.3"]
    assert texts(rig.ask("WWW.example.com")) == ["10.1.2.3"]
    assert rig.upstream.queries == 1
    assert rig.count("dns_query_answered_from_cache") == 1
    assert rig.count("dns_cache_entries") == 1


def test_an_ipv6_address_among_others_costs_them_no_name(rig: Rig) -> None:
    rig.ask("www.example.com")
    pairs = [["fd12:3456:789a::2", "2606:2800:220:1::1946"], ["192.168.127.2", "10.1.2.3"]]
    assert rig.request({"op": "names", "pairs": pairs}) == {"names": ["", "www.example.com"]}


def test_own_address_in_resolv_conf_is_not_asked(rig: Rig) -> None:
    assert [server.address[0] for server in rig.stage.dns.servers.servers] == ["127.0.0.1"]


def test_several_guests_with_the_same_question_cost_one(rig: Rig) -> None:
    for port in range(5000, 5010):
        rig.send(query(ident=port), 53, guest_port=port)
    end = monotonic() + LIMIT
    found: list[tuple[dict[str, int], bytes]] = []
    while len(found) < 10:
        assert monotonic() < end
        rig.breathe()
        found += rig.replies()
    assert sorted(
        (record["guest_port"], int.from_bytes(payload[:2], "big")) for record, payload in found
    ) == [(port, port) for port in range(5000, 5010)]
    assert rig.upstream.queries == 1


def test_dead_upstream_gives_servfail_within_five_seconds_and_says_so_once(rig: Rig) -> None:
    rig.upstream.silent = True
    start = monotonic()
    with structlog.testing.capture_logs() as logs:
        for n in range(2):
            rig.send(query(f"n{n}.example"), 53, guest_port=4000 + n)
        rig.breathe(start)
        assert rig.stage.deadline() <= start + 1.1
        for step in range(1, 50):
            rig.breathe(start + step / 10)
        found = rig.replies()
    assert [dns.message.from_wire(payload).rcode() for _, payload in found] == [dns.rcode.SERVFAIL] * 2
    assert [entry["event"] for entry in logs] == ["no upstream name server answers"]
    rig.upstream.silent = False
    with structlog.testing.capture_logs() as logs:
        assert texts(rig.ask("again.example")) == ["10.1.2.3"]
    assert [entry["event"] for entry in logs] == ["upstream name servers answer again"]


def test_names_beyond_what_may_be_under_way_are_answered_too(rig: Rig) -> None:
    rig.upstream.silent = True
    start = monotonic()
    for n in range(556):
        rig.send(query(f"n{n}.example", ident=n), 53)
        rig.breathe(start)
    assert (rig.count("dns_query_queued"), rig.count("dns_queued"), rig.replies()) == (44, 44, [])
    rig.upstream.silent = False
    # The server has dropped the first ones: they are asked again after a second. So are those that its
    # socket has no room for.
    found: set[int] = set()
    end = monotonic() + LIMIT
    now = start + 1.1
    while len(found) < 556:
        assert monotonic() < end
        rig.breathe(now)
        now = min(now + 0.01, start + 3.9)
        for _, payload in rig.replies():
            assert payload[3] & 15 == dns.rcode.NOERROR
            found.add(int.from_bytes(payload[:2], "big"))
    assert rig.count("dns_queued") == rig.count("dns_pending") == 0


def test_names_beyond_a_guests_rate_wait_while_other_guests_are_active(rig: Rig) -> None:
    start = monotonic()
    found = 0
    for n in range(300):
        rig.send(query(f"n{n}.example", ident=n), 53, crowded=True)
        rig.breathe(start)
        found += len(rig.replies())
    # Half a second's worth begins at once.
    assert rig.count("dns_query_queued") == 50
    assert start < rig.stage.deadline() < start + 0.01
    end = monotonic() + LIMIT
    now = start
    while found < 300:
        assert monotonic() < end
        now += 0.001
        rig.breathe(now)
        found += len(rig.replies())
    assert now >= start + 0.099
    assert rig.count("dns_query_refused_waited_too_long") == 0


def test_names_whose_turn_does_not_come_are_servfail_within_five_seconds(rig: Rig) -> None:
    rig.upstream.silent = True
    start = monotonic()
    for n in range(556):
        rig.send(query(f"n{n}.example"), 53, guest_port=4000 + n)
        rig.breathe(start)
    found = []
    for step in range(1, 50):
        rig.breathe(start + step / 10)
        found += rig.replies()
        if step == 41:
            assert rig.count("dns_query_refused_waited_too_long") == len(found) == 44
    assert [payload[3] & 15 for _, payload in found] == [dns.rcode.SERVFAIL] * 556


def test_a_guest_that_trusts_ad_sees_it_in_the_answer(rig: Rig) -> None:
    rig.upstream.authentic = True
    assert rig.ask("www.example.com", flags=dns.flags.RD | dns.flags.AD).flags & dns.flags.AD
    assert not rig.ask("www.example.com", flags=dns.flags.RD).flags & dns.flags.AD


@pytest.mark.parametrize("rcode", [None, dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
def test_server_that_understands_no_edns_is_one_all_the_same(rig: Rig, rcode: dns.rcode.Rcode | None) -> None:
    rig.upstream.without_edns = True
    rig.upstream.refusal = rcode
    start = monotonic()
    rig.send(query("www.example.com"), 53)
    rig.breathe(start)
    end = start + LIMIT
    while not (found := rig.replies()):
        assert monotonic() < end
        rig.breathe(start + 1.1)
    assert texts(dns.message.from_wire(found[0][1])) == ["10.1.2.3"]
    asked = rig.upstream.queries
    assert texts(rig.ask("www.example.org")) == ["10.1.2.3"]
    assert rig.upstream.queries == asked + 1


def test_big_answer_is_cut_for_udp_and_whole_with_edns(rig: Rig) -> None:
    rig.upstream.rows = 60
    small = rig.ask("big.example")
    assert small.flags & dns.flags.TC
    assert len(small.to_wire()) <= 512
    assert len(texts(rig.ask("big.example", use_edns=0, payload=4096))) == 60


def test_changed_resolv_conf_is_used_and_old_answers_forgotten(rig: Rig, tmp_path: Path) -> None:
    assert texts(rig.ask("www.example.com")) == ["10.1.2.3"]
    (tmp_path / "new").write_text("nameserver 127.0.0.2\nnameserver 127.0.0.1\n")
    (tmp_path / "new").replace(tmp_path / "resolv.conf")
    (tmp_path / "hosts").write_text("10.8.8.8 nas.home printer.home\n")
    later = monotonic() + 2
    rig.send(query("printer.home"), 53)
    rig.breathe(later)
    assert texts(dns.message.from_wire(rig.replies()[0][1])) == ["10.8.8.8"]
    assert len(rig.stage.dns.servers.servers) == 2
    assert texts(rig.ask("www.example.com")) == ["10.1.2.3"]
    assert rig.upstream.queries == 2


def test_zones_are_shown_and_added_and_take_effect_at_once(rig: Rig) -> None:
    assert [zone["Name"] for zone in rig.request({"op": "dns_all"})["zones"]] == [
        "containers.internal.",
        "docker.internal.",
    ]
    assert texts(rig.ask("a.test.internal")) == ["10.1.2.3"]
    zone = {
        "Name": "test.internal.",
        "Records": [{"Name": "a", "IP": "10.7.7.7", "Regexp": ""}],
        "DefaultIP": "",
    }
    assert rig.request({"op": "dns_add", "zone": zone}) == {}
    assert texts(rig.ask("a.test.internal")) == ["10.7.7.7"]
    shown = rig.request({"op": "dns_all"})["zones"][2]
    assert shown == {"Name": "test.internal.", "Records": [{"Name": "a", "IP": "10.7.7.7"}], "DefaultIP": ""}


@pytest.mark.parametrize(
    "zone, text",
    [
        ({"DefaultIP": "1.2"}, "invalid IP address: 1.2"),
        ({"Records": [{"Regexp": "("}]}, "error parsing regexp: missing closing ): `(`"),
    ],
)
def test_senseless_zone_is_refused(rig: Rig, zone: dict[str, Any], text: str) -> None:
    assert rig.request({"op": "dns_add", "zone": zone}) == {"error": text}


def test_unknown_requests_are_refused_and_their_descriptors_closed(rig: Rig) -> None:
    reader, writer = os.pipe()
    for message in ({"op": "nonsense"}, {"op": "dns_add"}, {}):
        assert "error" in rig.request(message)
    assert "error" in rig.request({"op": "serve_tcp"})
    assert "error" in rig.request({"op": "nonsense"}, [writer])
    assert os.read(reader, 1) == b""
    os.close(reader)


# --- bounds ---------------------------------------------------------------------------------


def test_senseless_datagrams_are_counted_and_give_their_slots_back(rig: Rig) -> None:
    rig.send(b"", 53)
    rig.send(b"x" * 30, 67)
    rig.send(b"x" * 30, 99)
    rig.send(query() + bytes(60000), 53)
    rig.breathe()
    assert [payload[3] & 15 for _, payload in rig.replies()] == [dns.rcode.FORMERR]
    for counter in (
        "dns_query_ignored_truncated",
        "dns_query_refused_malformed",
        "dhcp_message_dropped_truncated",
        "resolver_datagram_dropped_unknown_port",
    ):
        assert rig.count(counter) == 1
    assert rig.ingress.refs_out == 0


def test_flood_without_a_reader_is_dropped_and_counted_and_holds_no_memory(rig: Rig) -> None:
    for burst in range(30):
        for n in range(30):
            rig.send(query("host.containers.internal", ident=n), 53, guest_port=burst * 100 + n)
        rig.breathe()
    assert rig.ingress.refs_out == 0
    sent = 0
    while found := rig.replies():
        sent += len(found)
        rig.breathe()
    assert sent + rig.count("resolver_reply_dropped_no_slot") == 900
    assert texts(rig.ask("host.containers.internal")) == ["192.168.127.254"]


def test_replies_that_demux_does_not_take_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_BACKLOG", 10)
    for n in range(20):
        rig.send(query("host.containers.internal"), 53, guest_port=n)
    # One step without publishing: the ring takes nothing.
    rig.stage.step(monotonic())
    assert rig.count("resolver_reply_dropped_ring_full") == 10


def test_replies_of_one_step_share_a_slot_with_room_for_headers(rig: Rig) -> None:
    for n in range(20):
        rig.send(query("host.containers.internal"), 53, guest_port=n)
    rig.breathe()
    assert rig.worker.pool is not None
    assert rig.worker.pool.count - rig.worker.pool.free_count == 1
    found = sorted((record["off"], len(payload)) for record, payload in rig.replies())
    assert all(later - (off + length) >= 64 for (off, length), (later, _) in pairwise(found))


def upstream_times(rig: Rig) -> int:
    *buckets, _ = rig.worker.ports.counters.histogram(BY_NAME["dns_upstream"])
    return sum(buckets)


def test_the_time_of_an_upstream_answer_is_counted_and_of_a_cached_one_not(rig: Rig) -> None:
    rig.ask("a.example")
    assert upstream_times(rig) == 1
    rig.ask("a.example")
    rig.ask("nas.home")
    assert (rig.upstream.queries, upstream_times(rig)) == (1, 1)


def test_a_reload_replaces_the_zones_of_the_file_and_keeps_those_of_the_api(rig: Rig) -> None:
    def zones(*found: Zone) -> Config:
        return changed(rig.config, dns_zones=found)

    def shown() -> list[str]:
        return [str(zone["Name"]) for zone in rig.stage.dns.zones.as_list()]

    rig.stage.reload(zones(Zone("file.test.", (Record("x", "192.0.2.1"),))))
    added = {"Name": "file.test.", "Records": [{"Name": "y", "IP": "192.0.2.2"}]}
    rig.stage.on_control({"op": "dns_add", "zone": added}, [])
    rig.stage.on_control({"op": "dns_add", "zone": {"Name": "api.test."}}, [])
    assert shown() == ["file.test.", "api.test."]
    rig.stage.reload(zones(Zone("other.test.")))
    assert shown() == ["other.test.", "file.test.", "api.test."]
    (found,) = [zone for zone in rig.stage.dns.zones.as_list() if zone["Name"] == "file.test."]
    assert found["Records"] == [{"Name": "y", "IP": "192.0.2.2"}]


def test_a_reload_with_a_wrong_zone_changes_nothing(rig: Rig) -> None:
    before = rig.stage.dns.zones.as_list()
    wrong = changed(
        rig.config,
        dns_zones=(Zone("fine."), Zone("a" * 300)),
        egress_policy=EgressPolicy("deny", (PolicyRule("allow", names=("a.test",)),)),
    )
    with pytest.raises(ZoneError, match=r"^stack\.dns\[1\]: zone name is longer than 253 characters$"):
        rig.stage.reload(wrong)
    assert rig.stage.dns.zones.as_list() == before
    assert not rig.stage.dns.names.wanted


def test_after_a_reload_names_of_the_new_policy_are_reported(rig: Rig) -> None:
    rule = PolicyRule("allow", names=("www.example.com",))
    rig.stage.reload(changed(rig.config, egress_policy=EgressPolicy("deny", (rule,))))
    assert rig.stage.dns.names.wanted
    rig.stage.reload(rig.config)
    assert not rig.stage.dns.names.wanted


def test_after_a_reload_guests_names_are_still_answered(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ["-guest-names", "vm.internal"])
    rig.stage.reload(changed(rig.config, dns_zones=(Zone("other.test."),)))
    shown = [str(zone["Name"]) for zone in rig.stage.dns.zones.as_list()]
    assert shown == ["other.test.", "vm.internal."]
    assert rig.stage.guest_names.names is not None
    rig.stage.guest_names.names.addresses["web"] = bytes([192, 168, 127, 2])
    assert texts(rig.ask("web.vm.internal")) == ["192.168.127.2"]
    rig.close()
