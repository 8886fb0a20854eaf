"""DNS64: which addresses, own names, reverse names, and ipv4only.arpa (RFC 6147, RFC 7050, RFC 8880)."""

import ipaddress
from types import SimpleNamespace

import dns.name
import dns.rcode
import dns.reversename
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.engines import policy
from pipeline.engines.dns import answers
from pipeline.engines.dns import message as m
from pipeline.engines.dns.server import Forward
from pipeline.engines.nat import Nat
from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.wire import ip
from tests.engines.dns.test_server import asked, reply
from tests.engines.dns.test_synthesis import (
    A_ROW,
    GATEWAY,
    GATEWAY6,
    HOST,
    OWNER,
    SUBNET,
    SYNTHETIC,
    ask,
    engine,
    question_of,
    respond,
    reverse,
    rules,
    synthesized,
    texts,
)

# --- which addresses (section 5.2, RFC 6052) ------------------------------------------------------


@pytest.mark.parametrize(
    ("ipv4", "expected"),
    [
        ("192.0.2.33", SYNTHETIC),
        ("10.1.2.3", "64:ff9b::a01:203"),  # not global, but the host may reach it
        ("169.254.169.254", "64:ff9b::a9fe:a9fe"),
        ("192.168.127.254", "64:ff9b::c0a8:7ffe"),  # the host
        ("192.168.127.1", "fd00::1"),  # the gateway
        ("192.168.127.9", ""),  # a guest
        ("192.168.127.255", ""),
        ("127.0.0.1", ""),
        ("0.0.0.0", ""),
        ("0.1.2.3", ""),
        ("224.0.0.1", ""),
        ("240.0.0.1", ""),
        ("255.255.255.255", ""),
    ],
)
def test_the_address_for_each_kind_of_ipv4_address(ipv4: str, expected: str) -> None:
    found = rules().address(ipaddress.IPv4Address(ipv4).packed)
    assert (str(ipaddress.IPv6Address(found)) if found else "") == expected


@given(st.integers(0, 2**32 - 1))
def test_the_gateway_translates_each_synthetic_address_back(bits: int) -> None:
    found = int.from_bytes(rules().address(bits.to_bytes(4, "big")), "big")
    if not found or found == GATEWAY6:
        return
    assert ip.embedded(found) == ip.from_ipv4(bits)
    config = SimpleNamespace(subnet=SUBNET, gateway_ip=GATEWAY, gateway_virtual_ips=(HOST,), nat={HOST: 1})
    ipv6 = Ipv6Addresses(GATEWAY6 - 1, bytes(6), gateway=GATEWAY6, host=GATEWAY6 | 0xFE)
    nat = Nat(config, ipv6=ipv6, ec2_metadata_access=True)
    assert nat.tcp_target(found, 443) == nat.tcp_target(ip.from_ipv4(bits), 443)
    if not ip.is_link_local(ip.from_ipv4(bits)):
        assert not nat.tcp_target(found, 443).refused


def test_unreachable_addresses_are_left_out() -> None:
    rows = (OWNER, 300, "IN", "A", "127.0.0.1", "192.0.2.33")
    assert texts(synthesized(engine(), rows)) == [f"{OWNER} 20 IN AAAA {SYNTHETIC}"]
    assert texts(synthesized(engine(), (OWNER, 300, "IN", "A", "127.0.0.1"))) == []


# --- the gateway's own names ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("host", ["64:ff9b::c0a8:7ffe"]),
        ("gateway", ["fd00::1"]),
        ("guest", []),
        ("both", ["2001:db8::5"]),
    ],
)
def test_own_zones_have_addresses_for_guests_without_ipv4(label: str, expected: list[str]) -> None:
    name = f"{label}.containers.internal"
    answer = reply(ask(engine(), name))
    assert [row.to_text() for rrset in answer.answer for row in rrset] == expected
    if label != "both":
        assert texts(reply(ask(engine(), name, over_ipv6=False))) == []


def test_a_name_that_a_zone_does_not_have_does_not_exist() -> None:
    assert reply(ask(engine(), "no.containers.internal")).rcode() == dns.rcode.NXDOMAIN


def test_names_of_the_hosts_file_have_addresses_too() -> None:
    dnsd = engine()
    dnsd.set_hosts({"nas.home": (bytes((10, 0, 0, 5)),), "six.home": (bytes(15) + b"\2",)})
    assert texts(reply(ask(dnsd, "nas.home"))) == ["nas.home. 0 IN AAAA 64:ff9b::a00:5"]
    assert texts(reply(ask(dnsd, "six.home"))) == ["six.home. 0 IN AAAA ::2"]
    assert texts(reply(ask(dnsd, "localhost"))) == ["localhost. 0 IN AAAA ::1"]


# --- reverse names (section 5.3.1) ----------------------------------------------------------------


def test_a_reverse_name_is_asked_for_as_that_of_the_ipv4_address() -> None:
    dnsd = engine()
    name = reverse(SYNTHETIC)
    forward = ask(dnsd, name.upper(), "PTR")
    assert question_of(forward) == "33.2.0.192.in-addr.arpa. IN PTR"
    pointer = ("33.2.0.192.in-addr.arpa.", 90, "IN", "PTR", "host.example.")
    [(_, answer)], [] = respond(dnsd, forward, pointer)
    assert texts(answer) == [f"{name.upper()}. 90 IN PTR host.example."]
    assert answer.question[0].name == dns.name.from_text(name)
    assert texts(reply(ask(dnsd, name, "PTR", now=30.0))) == [f"{name}. 60 IN PTR host.example."]
    assert texts(reply(ask(dnsd, "33.2.0.192.in-addr.arpa", "PTR", now=30.0))) == [
        "33.2.0.192.in-addr.arpa. 60 IN PTR host.example."
    ]


def test_a_reverse_name_in_a_subnet_of_its_own_is_followed() -> None:
    """RFC 2317: the PTR record is behind a CNAME record."""
    dnsd = engine()
    rows = [
        ("33.2.0.192.in-addr.arpa.", 30, "IN", "CNAME", "33.32/27.2.0.192.in-addr.arpa."),
        ("33.32/27.2.0.192.in-addr.arpa.", 90, "IN", "PTR", "host.example."),
    ]
    [(_, answer)], [] = respond(dnsd, ask(dnsd, reverse(SYNTHETIC), "PTR"), *rows)
    assert texts(answer) == [f"{reverse(SYNTHETIC)}. 30 IN PTR host.example."]


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL])
def test_a_reverse_name_without_a_record_has_the_code_of_the_other(rcode: int) -> None:
    dnsd = engine()
    [(_, answer)], [] = respond(dnsd, ask(dnsd, reverse(SYNTHETIC), "PTR"), rcode=rcode, authority=True)
    assert (answer.rcode(), answer.answer, answer.authority) == (rcode, [], [])


def test_reverse_names_of_own_addresses_are_the_gateways() -> None:
    name = reverse("64:ff9b::c0a8:7ffe")
    assert texts(reply(ask(engine(), name, "PTR"))) == [f"{name}. 0 IN PTR host.containers.internal."]
    assert reply(ask(engine(), reverse("64:ff9b::c0a8:7f08"), "PTR")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    "name",
    [
        reverse("64:ff9b:1::1"),
        reverse("64:ff9b::1:c000:221"),
        reverse("2001:db8::1"),
        reverse(SYNTHETIC)[2:],
        "1." + reverse(SYNTHETIC),
        reverse(SYNTHETIC).replace("1.2.2", "1.2.g", 1),
        reverse(SYNTHETIC).replace("1.2.2", "1.2.22", 1),
        reverse(SYNTHETIC).replace("arpa", "arpb"),
    ],
)
def test_other_reverse_names_are_ordinary_questions(name: str) -> None:
    assert question_of(ask(engine(), name, "PTR")) == f"{name}. IN PTR"


def test_other_types_of_a_reverse_name_are_ordinary_questions() -> None:
    assert question_of(ask(engine(), reverse(SYNTHETIC), "TXT")) == f"{reverse(SYNTHETIC)}. IN TXT"


@given(st.integers(0, 2**32 - 1))
def test_each_embedded_address_has_the_reverse_name_of_its_ipv4_address(bits: int) -> None:
    query = m.parse_query(asked(reverse(ip.text(ip.NAT64 | bits)), "PTR"), tcp=False)
    assert isinstance(query, m.Query)
    expected = dns.reversename.from_address(str(ipaddress.IPv4Address(bits)))
    assert (*rules().asked(query).labels, b"") == expected.labels


# --- ipv4only.arpa (RFC 7050, RFC 8880) -----------------------------------------------------------


def test_ipv4only_arpa_tells_the_prefix_and_is_never_asked_upstream() -> None:
    dnsd = engine()
    ours = "ipv4only.arpa"
    assert texts(reply(ask(dnsd, "IPV4only.arpa", "A"))) == [
        "IPV4only.arpa. 86400 IN A 192.0.0.170\nIPV4only.arpa. 86400 IN A 192.0.0.171"
    ]
    assert texts(reply(ask(dnsd, ours))) == [
        f"{ours}. 86400 IN AAAA 64:ff9b::c000:aa\n{ours}. 86400 IN AAAA 64:ff9b::c000:ab"
    ]
    assert texts(reply(ask(dnsd, ours, over_ipv6=False))) == []
    for rdtype in ("TXT", "NS", "SOA", "HTTPS"):
        answer = reply(ask(dnsd, ours, rdtype))
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
    for below in ("x.ipv4only.arpa", "a.b.ipv4only.arpa"):
        assert reply(ask(dnsd, below, "A")).rcode() == dns.rcode.NXDOMAIN
    assert dnsd.pending_count == 0


def test_reverse_names_of_ipv4only_arpa_are_answered_here() -> None:
    dnsd = engine()
    for last in (170, 171):
        name = f"{last}.0.0.192.in-addr.arpa"
        assert texts(reply(ask(dnsd, name, "PTR"))) == [f"{name}. 86400 IN PTR ipv4only.arpa."]
        assert reply(ask(dnsd, name, "A")).answer == []
        assert reply(ask(dnsd, f"x.{name}", "PTR")).rcode() == dns.rcode.NXDOMAIN
        embedded = reverse(f"64:ff9b::192.0.0.{last}")
        assert texts(reply(ask(dnsd, embedded, "PTR"))) == [f"{embedded}. 86400 IN PTR ipv4only.arpa."]
    assert isinstance(ask(dnsd, "169.0.0.192.in-addr.arpa", "PTR"), Forward)


# --- the egress policy ----------------------------------------------------------------------------


def test_a_policy_by_name_holds_for_synthetic_addresses() -> None:
    rules_ = EgressPolicy("deny", (PolicyRule("allow", names=("www.example.com",)),))
    judge = policy.Policy(rules_)
    wire = synthesized(engine(), A_ROW).to_wire()
    guest, synthetic = ip.parse("fd00::9"), ip.parse(SYNTHETIC)
    assert not judge.allows(guest, synthetic, 443, "tcp", 0.0)
    [pattern] = policy.Names(rules_).match(answers.asked(wire))
    addresses, ttl, _ = answers.given(wire)
    assert (addresses, ttl) == ((synthetic,), 20)
    judge.learn(guest, synthetic, pattern, ttl, 0.0)
    assert judge.allows(guest, synthetic, 443, "tcp", 1.0)
    assert not judge.allows(guest, ip.parse("64:ff9b::c000:222"), 443, "tcp", 1.0)
    assert not judge.allows(ip.parse("fd00::8"), synthetic, 443, "tcp", 1.0)
