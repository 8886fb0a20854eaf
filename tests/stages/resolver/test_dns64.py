"""DNS64 in the resolver stage: who gets synthetic addresses, and what egress and /flows learn of them."""

import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import dns.message
import dns.reversename
import dns.rrset
import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.engines.policy import number_of
from pipeline.ipc.arena import HEADROOM
from pipeline.records.services import Named, ServiceDatagram
from pipeline.stages.resolver.names import NameReports
from pipeline.wire import ip
from tests.stages.resolver.test_keeps import records
from tests.support.resolver_rig import GATEWAY, GUEST, Rig, framed, query, received, texts

PREFIX = "fd12:3456:789a:1::/64"
GATEWAY6, GUEST6 = ip.parse("fd12:3456:789a:1::1"), ip.parse("fd12:3456:789a:1::9")
SYNTHETIC = "64:ff9b::a01:203"
"""Of 10.1.2.3, which the rig's name server has for every name. It answers no question about AAAA."""
POLICY = "egress-policy: {default: deny, rules: [{action: allow, names: [www.example.com]}]}\n"


def made(tmp_path: Path, *words: str, text: str = "") -> Rig:
    path = tmp_path / "config.yaml"
    path.write_text(f"ipv6: {{enabled: on, prefix: '{PREFIX}'}}\n{text}")
    zone = "stack: {dns: [{name: containers.internal., records: [{name: gateway, ip: 192.168.127.1}]}]}\n"
    path.write_text(path.read_text() + zone)
    return Rig(tmp_path, ["-config", str(path), *words])


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    found = made(tmp_path)
    yield found
    found.close()


def ask(rig: Rig, name: str, rdtype: str = "AAAA", *, six: bool = True, **options: Any) -> list[str]:
    """The records of the answer to a guest."""
    guest, gateway = (GUEST6, GATEWAY6) if six else (GUEST, GATEWAY)
    rig.send(query(name, rdtype, **options), 53, guest_addr=guest, remote=gateway)
    record, payload = rig.reply()
    assert (record["guest"], record["remote"], record["off"] >= HEADROOM) == (guest, gateway, True)
    return texts(dns.message.from_wire(payload))


def test_a_guest_that_asks_over_ipv6_gets_a_synthetic_address(rig: Rig) -> None:
    assert ask(rig, "www.example.com") == [SYNTHETIC]
    assert rig.upstream.queries == 2
    assert ask(rig, "www.example.com", "A") == ["10.1.2.3"]
    assert rig.upstream.queries == 2
    assert rig.count("dns_answers_synthesized") == 1


def test_a_guest_that_asks_over_ipv4_gets_none(rig: Rig) -> None:
    assert "64:ff9b" not in str(ask(rig, "www.example.com", six=False))
    assert ask(rig, "www.example.com") == [SYNTHETIC]


def test_with_on_all_guests_get_one(tmp_path: Path) -> None:
    rig = made(tmp_path, "-nat64", "on")
    assert ask(rig, "www.example.com", six=False) == [SYNTHETIC]
    rig.close()


@pytest.mark.parametrize("words", [("-nat64", "off"), ("-ipv6", "off")])
def test_with_off_and_without_ipv6_nobody_gets_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    rig = made(tmp_path, *words)
    assert SYNTHETIC not in ask(rig, "www.example.com")
    assert ask(rig, "gateway.containers.internal") == []
    assert rig.count("dns_answers_synthesized") == 0
    rig.close()


def test_the_gateway_has_its_own_ipv6_address(rig: Rig) -> None:
    assert ask(rig, "gateway.containers.internal") == [ip.text(GATEWAY6)]
    assert ask(rig, "nas.home") == ["64:ff9b::a09:909"]


def test_ipv4only_arpa_stays_here(rig: Rig) -> None:
    assert ask(rig, "ipv4only.arpa") == ["64:ff9b::c000:aa", "64:ff9b::c000:ab"]
    assert ask(rig, "ipv4only.arpa", "A", six=False) == ["192.0.0.170", "192.0.0.171"]
    name = dns.reversename.from_address("64:ff9b::c000:aa").to_text()
    assert ask(rig, name, "PTR", six=False) == ["ipv4only.arpa."]
    assert rig.upstream.queries == 0


def test_a_silent_server_costs_one_error(rig: Rig) -> None:
    rig.upstream.silent = True
    now = monotonic()
    rig.send(query("www.example.com", "AAAA"), 53, guest_addr=GUEST6, remote=GATEWAY6)
    found: list[Any] = []
    while not found:
        assert now < monotonic() + 60.0
        rig.breathe(now)
        now += 0.25
        rig.stage.dns.upstream.on_timer(now)
        found = rig.replies()
    [(_, payload)] = found
    assert dns.message.from_wire(payload).rcode() == dns.rcode.SERVFAIL
    assert rig.stage.held() == {"dns_connections": 0, "dns_pending": 0, "dns_queued": 0}


def test_over_tcp_the_guests_address_counts(rig: Rig) -> None:
    for addr, expected in ((GUEST6, [SYNTHETIC]), (GUEST, None)):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        rig.stage.dns.streams.serve(theirs, addr, 3)
        ours.sendall(framed(query("www.example.com", "AAAA")))
        [answer] = received(rig, ours)
        assert (texts(answer) == expected) is (expected is not None)
        ours.close()
        rig.breathe()


def test_the_name_of_a_synthetic_address_is_known(rig: Rig) -> None:
    ask(rig, "www.example.com")
    pairs = [[ip.text(GUEST6), SYNTHETIC], [ip.text(GUEST), SYNTHETIC]]
    assert rig.request({"op": "names", "pairs": pairs}) == {"names": ["www.example.com", ""]}


@pytest.mark.parametrize("words", [(), ("-ipv6", "off")])
def test_egress_learns_the_address_before_the_guest(tmp_path: Path, words: tuple[str, ...]) -> None:
    rig = made(tmp_path, *words, text=POLICY)
    rig.send(query("www.example.com", "AAAA"), 53, guest_addr=GUEST6, remote=GATEWAY6)
    found = records(rig)
    assert isinstance(found[-1], ServiceDatagram)
    expected = [] if words else [(GUEST6, ip.parse(SYNTHETIC), number_of("www.example.com"), 60)]
    assert [
        (named.guest_addr, named.remote_addr, named.pattern, named.ttl_s)
        for named in found
        if isinstance(named, Named) and not ip.is_ipv4(named.remote_addr)
    ] == expected
    rig.close()


def test_addresses_that_guests_cannot_reach_cost_egress_nothing(tmp_path: Path) -> None:
    """While IPv6 is off, a guest may still ask for AAAA."""
    reports: list[bytes] = []
    names = EgressPolicy("deny", (PolicyRule("allow", names=("www.example.com",)),))
    for has_ipv6, expected in ((False, 1), (True, 2)):
        made_of = dns.message.make_response(dns.message.make_query("www.example.com", "ANY"))
        for kind, text in (("A", "10.1.2.3"), ("AAAA", "2001:db8::1")):
            made_of.answer.append(dns.rrset.from_text("www.example.com.", 60, "IN", kind, text))
        reports.clear()
        ring: Any = SimpleNamespace(push=reports.append)
        NameReports(names, ring, has_ipv6=has_ipv6).on_reply(GUEST, made_of.to_wire())
        assert len(reports) == expected
