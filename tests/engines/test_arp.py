"""The gateway's answers and questions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.arp import ArpResponder
from pipeline.wire import arp, ethernet, ip
from tests.support.fuzz import addrs, macs

MAC = bytes.fromhex("5a94efe40cdd")
GUEST_MAC = bytes.fromhex("5a94efe40cee")
GATEWAY, HOST, GUEST = map(ip.parse_ipv4, ("192.168.127.1", "192.168.127.254", "192.168.127.2"))


def responder() -> ArpResponder:
    return ArpResponder(MAC, GATEWAY, [HOST])


def request(target: int, spa: int = GUEST, sha: bytes = GUEST_MAC) -> arp.Arp:
    return arp.Arp(arp.REQUEST, sha, spa, ethernet.ZERO, target)


def test_the_reply_for_the_gateway_byte_for_byte() -> None:
    want = "5a94efe40cee 5a94efe40cdd 0806 0001 0800 06 04 0002 5a94efe40cdd c0a87f01 5a94efe40cee c0a87f02"
    assert responder().answer(request(GATEWAY)) == bytes.fromhex(want.replace(" ", ""))


def test_virtual_addresses_are_answered_for() -> None:
    reply = responder().answer(request(HOST))
    assert reply is not None
    message = arp.parse(reply, 14, len(reply))
    assert (message.op, message.sha, message.spa, message.tpa) == (arp.REPLY, MAC, HOST, GUEST)


def test_a_probe_for_the_gateways_address_is_told_of_the_conflict() -> None:
    reply = responder().answer(request(GATEWAY, spa=0))
    assert reply is not None
    assert arp.parse(reply, 14, len(reply)).tpa == 0


@pytest.mark.parametrize("target", ["192.168.127.2", "192.168.127.3", "8.8.8.8", "0.0.0.0"])
def test_other_addresses_get_no_answer(target: str) -> None:
    assert responder().answer(request(ip.parse_ipv4(target))) is None


@pytest.mark.parametrize(
    "message",
    [
        request(GATEWAY)._replace(op=arp.REPLY),
        request(GATEWAY, spa=GATEWAY),
        request(GATEWAY, spa=HOST),
        request(GATEWAY, sha=ethernet.BROADCAST),
        request(GATEWAY, sha=ethernet.ZERO),
        request(GATEWAY, sha=MAC),
    ],
)
def test_replies_and_requests_that_cannot_be_answered_get_none(message: arp.Arp) -> None:
    assert responder().answer(message) is None


def test_requests_go_to_everybody_or_to_one() -> None:
    want = arp.Arp(arp.REQUEST, MAC, GATEWAY, ethernet.ZERO, GUEST)
    for frame, dst in (
        (responder().request(GUEST), ethernet.BROADCAST),
        (responder().request(GUEST, GUEST_MAC), GUEST_MAC),
    ):
        assert ethernet.parse_header(frame, 0, len(frame)) == (dst, MAC, ethernet.TYPE_ARP)
        assert arp.parse(frame, 14, len(frame)) == want


@given(st.sampled_from([1, 2]), macs, addrs, macs, st.sampled_from([GATEWAY, HOST, GUEST]))
def test_answers_are_unicast_frames_of_42_bytes(op: int, sha: bytes, spa: int, tha: bytes, tpa: int) -> None:
    reply = responder().answer(arp.Arp(op, sha, spa, tha, tpa))
    if reply is not None:
        assert len(reply) == 42
        assert reply[:6] == sha
        assert not ethernet.is_group(reply[:6])


def test_an_announcement_speaks_for_its_station_to_everybody() -> None:
    frame = responder().announcement(GUEST, GUEST_MAC)
    assert frame[:14] == ethernet.header(ethernet.BROADCAST, GUEST_MAC, ethernet.TYPE_ARP)
    assert arp.parse(frame, 14, len(frame)) == arp.Arp(arp.REQUEST, GUEST_MAC, GUEST, ethernet.ZERO, GUEST)
