"""demux, tcp and egress together: a guest whose MAC changes, and an address that two links claim."""

from collections.abc import Iterator
from functools import partial

import pytest

from pipeline.engines.neighbors.entry import CONTEST_SECONDS
from pipeline.records.kinds import SERVICE_DATAGRAM
from pipeline.wire import arp, dhcp, ethernet, ip
from tests.support.dhcp_clients import message
from tests.support.frames import GATEWAY_MAC, udp_frame
from tests.support.network import Network
from tests.support.played_guests import GATEWAY, Guest

NEW_MAC = bytes.fromhex("00005e000107")


@pytest.fixture
def one() -> Iterator[Network]:
    with Network() as made:
        yield made


def change_mac(guest: Guest, mac: bytes) -> None:
    guest.mac = mac
    guest.to_gateway = ethernet.header(GATEWAY_MAC, mac, ethernet.TYPE_IPV4)


def ignore(frame: bytes) -> None:
    """What a guest that hangs does with a frame."""


def claim(guest: Guest, addr: int) -> bytes:
    """A gratuitous ARP message of a guest: addr is mine."""
    return ethernet.header(ethernet.BROADCAST, guest.mac, ethernet.TYPE_ARP) + arp.build(
        arp.REPLY, guest.mac, addr, ethernet.BROADCAST, addr
    )


def answered(guest: Guest, count: int) -> bool:
    """Whether that many datagrams have come."""
    return len(guest.datagrams) == count


def owner(one: Network, addr: int) -> tuple[bytes, int] | None:
    """Who has an address: as demux says, and ingress with it."""
    known: tuple[bytes, int] | None = one.stages["demux"].neighbors.snapshot().get(addr)
    told = one.card.steering.neighbors.get(addr)
    assert known == (None if told is None else (told.mac, told.link))
    return known


@pytest.mark.parametrize("steers", [True, False])
def test_connections_and_datagrams_of_a_guest_go_on_when_it_changes_its_mac(
    one: Network, steers: bool
) -> None:
    one.card.steers = steers
    guest = one.card.guest()
    stream, host = one.open(guest)
    server = one.udp_server()
    port = server.getsockname()[1]
    for number in range(20):
        if number % 5 == 0:
            change_mac(guest, NEW_MAC[:5] + bytes((number,)))
        stream.send(b"%2d" % number)
        guest.datagram(port, b"%2d" % number)
        one.settle()
        assert host.recv(10) == b"%2d" % number
        data, peer = server.recvfrom(10)
        assert data == b"%2d" % number
        server.sendto(data, peer)
        host.send(data)
        one.until(partial(answered, guest, number + 1), "the answer")
        assert owner(one, guest.addr) == (guest.mac, guest.link)
    assert stream.received == b"".join(b"%2d" % number for number in range(20))
    assert one.counter("demux", "neighbor_mac_changed") == 4
    assert one.counter("demux", "neighbor_claim_refused_address_taken") == 0
    assert one.counter("egress0", "egress_datagrams_to_host") == 20
    stream.reset()
    host.close()
    one.everybody_leaves()


def test_a_guest_that_is_silent_after_its_mac_changed_is_found_at_the_new_one(one: Network) -> None:
    guest = one.card.guest()
    stream, host = one.open(guest)
    change_mac(guest, NEW_MAC)
    guest.send(claim(guest, guest.addr))
    one.settle()
    assert owner(one, guest.addr) == (NEW_MAC, guest.link)
    host.send(b"hello")
    one.settle()
    assert stream.received == b"hello"
    stream.reset()
    host.close()
    one.everybody_leaves()


def test_a_guest_whose_mac_changed_is_answered_by_the_gateway_at_once(one: Network) -> None:
    guest = one.card.guest()
    one.open(guest)
    change_mac(guest, NEW_MAC)
    heard: list[bytes] = []

    def hear(frame: bytes) -> None:
        heard.append(frame)

    guest.on_frame = hear  # type: ignore[method-assign]
    guest.send(
        ethernet.header(ethernet.BROADCAST, NEW_MAC, ethernet.TYPE_ARP)
        + arp.build(arp.REQUEST, NEW_MAC, guest.addr, ethernet.ZERO, GATEWAY)
    )
    one.settle()
    (reply,) = heard
    assert reply[:6] == NEW_MAC
    assert arp.parse(reply, ethernet.HEADER_LEN, len(reply)).tpa == guest.addr


def test_another_link_gets_nothing_while_the_owner_answers(one: Network) -> None:
    guest, thief = one.card.guest(1), one.card.guest(2)
    stream, host = one.open(guest)
    for _ in range(30):
        thief.send(claim(thief, guest.addr))
        one.advance(0.2)
        assert owner(one, guest.addr) == (guest.mac, guest.link)
    assert one.counter("demux", "neighbor_claim_refused_address_taken") == 30
    host.send(b"still mine")
    one.settle()
    assert stream.received == b"still mine"
    stream.reset()
    host.close()
    one.everybody_leaves()


def test_another_link_gets_the_address_of_a_guest_that_hangs_after_a_second(one: Network) -> None:
    hung, heir = one.card.guest(1), one.card.guest(2)
    one.open(hung)
    hung.on_frame = ignore  # type: ignore[method-assign]
    hung.streams.clear()
    heir.send(claim(heir, hung.addr))
    one.advance(CONTEST_SECONDS - 0.01)
    assert owner(one, hung.addr) == (hung.mac, hung.link)
    one.advance(0.02)
    assert owner(one, hung.addr) == (heir.mac, heir.link)


def test_another_link_gets_the_address_of_a_guest_that_left_at_once(one: Network) -> None:
    guest, heir = one.card.guest(1), one.card.guest(2)
    one.open(guest)
    guest.leave()
    one.settle()
    heir.send(claim(heir, guest.addr))
    one.settle()
    assert owner(one, guest.addr) == (heir.mac, heir.link)


@pytest.mark.parametrize("answers", [True, False], ids=["alive", "hung"])
def test_another_link_that_takes_mac_and_address_gets_them_only_from_a_guest_that_hangs(
    one: Network, answers: bool
) -> None:
    guest, thief = one.card.guest(1), one.card.guest(2)
    one.open(guest)
    mac = guest.mac
    if not answers:
        guest.on_frame = ignore  # type: ignore[method-assign]
        guest.streams.clear()
    change_mac(thief, mac)
    for _ in range(12):
        thief.send(claim(thief, guest.addr))
        one.advance(0.1)
    assert owner(one, guest.addr) == (mac, 1 if answers else 2)


@pytest.mark.parametrize("limit", ["max_macs", "max_macs_per_guest"])
def test_a_full_table_of_macs_lets_nobody_take_the_address_of_a_live_guest(limit: str) -> None:
    with Network(**{limit: 1}) as one:
        first, thief, guest = one.card.guest(2), one.card.guest(3), one.card.guest(1)
        one.open(first)
        one.open(thief)
        stream, host = one.open(guest)
        owned = owner(one, guest.addr)
        assert owned == (guest.mac, guest.link)
        thief.mac = guest.mac
        for _ in range(30):
            thief.send(claim(thief, guest.addr))
            one.advance(0.2)
            assert owner(one, guest.addr) == owned
        host.send(b"still mine")
        one.settle()
        assert stream.received == b"still mine"


def test_a_guest_without_an_address_is_not_shut_out_by_one_that_takes_its_mac(one: Network) -> None:
    guest, thief = one.card.guest(1), one.card.guest(2)
    discover = udp_frame(
        message(dhcp.DISCOVER, guest.mac), sport=68, dport=67, src=0, dst=ip.BROADCAST,
        eth_header=ethernet.header(ethernet.BROADCAST, guest.mac, ethernet.TYPE_IPV4),
    )  # fmt: skip
    thief.addr += 100
    answer = thief.on_frame

    def answer_arp(frame: bytes) -> None:
        if frame[12:14] == ethernet.TYPE_ARP.to_bytes(2, "big"):
            answer(frame)

    thief.on_frame = answer_arp  # type: ignore[method-assign]
    guest.send(discover)
    one.settle()
    change_mac(thief, guest.mac)
    thief.send(claim(thief, thief.addr))
    one.advance(1.5)
    thief.send(claim(thief, thief.addr))
    one.settle()
    assert owner(one, thief.addr) == (guest.mac, thief.link)
    resolver = one.neighbours["resolver"]
    assert [record.kind for record in resolver.take()].count(SERVICE_DATAGRAM) == 1
    for _ in range(60):
        thief.send(claim(thief, thief.addr))
        one.advance(3.0)
        guest.send(discover)
        one.settle()
        assert len(resolver.take()) == 1
    # And as it has the MAC, it gets an address.
    one.open(guest)
    assert owner(one, guest.addr) == (guest.mac, guest.link)


def test_a_guest_that_changes_its_mac_and_reads_nothing_fills_no_memory(one: Network) -> None:
    guest = one.card.guest()
    one.open(guest)
    ring = one.workers["demux"].ports.rings_out["ingress"]
    demux = one.stages["demux"]
    one.card.deaf = True
    while ring.room() > 0:
        demux.bindings.learned(guest.addr, guest.mac, guest.link)
        one.breathe("demux")
    for number in range(1000):
        change_mac(guest, bytes((2, 0, 0, 0, number >> 8, number & 0xFF)))
        guest.send(claim(guest, guest.addr))
        one.breathe("ingress", "demux")
    assert one.counter("demux", "neighbor_mac_changed") == 1000
    assert list(demux.bindings.unreported) == [guest.addr]
    assert ring.room() <= 0
    one.card.deaf = False
    one.advance(0.1)
    assert not demux.bindings.unreported
    assert owner(one, guest.addr) == (guest.mac, guest.link)
