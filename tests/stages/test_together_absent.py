"""demux, tcp and egress together: datagrams to forwarded ports of guests that answer no ARP, or not yet."""

import contextlib
import socket

import pytest

from pipeline.stages.demux.waiting import WaitingSlots
from tests.support.network import Make, Network
from tests.support.played_guests import GATEWAY

MOST_ABSENT = 10


def absent_ports(one: Network, count: int) -> list[socket.socket]:
    """Clients of forwarded ports of that many guests that are not there."""
    assert count <= MOST_ABSENT
    return [one.forwarded_port("egress0", GATEWAY + 50 + n, f"absent{n}") for n in range(count)]


def flood(clients: list[socket.socket], payload: bytes) -> None:
    for client in clients:
        with contextlib.suppress(BlockingIOError):
            client.send(payload)


def all_leave(one: Network) -> None:
    for key in ("k", *(f"absent{number}" for number in range(MOST_ABSENT))):
        one.stages["egress0"].on_control({"op": "udp_unforward", "key": key}, [])
    one.everybody_leaves()


@pytest.mark.parametrize("slots", [64, 512])
def test_datagrams_for_absent_guests_leave_slots_to_connections(network: Make, slots: int) -> None:
    one = network(slots=slots)
    pool = one.workers["egress0"].pool
    stream, sock = one.open(one.card.guest(1))
    clients = absent_ports(one, 4)
    for _ in range(80):
        flood(clients, bytes(65000))
        one.settle()
    assert pool.free_count > pool.count * 3 // 4
    sock.send(b"x" * 100_000)
    one.until(lambda: len(stream.received) == 100_000)
    assert one.counter("demux", "udp_datagram_dropped_too_many_waiting") > 200
    sock.close()
    stream.finish()
    all_leave(one)


def test_short_datagrams_for_absent_guests_keep_few_slots_of_a_download(network: Make) -> None:
    one = network(slots=512)
    pool = one.workers["egress0"].pool
    stream, sock = one.open(one.card.guest(1))
    clients = absent_ports(one, 10)
    for turn in range(1, 61):
        flood(clients, b"s")
        sock.send(bytes(60_000))
        one.until(lambda turn=turn: len(stream.received) == turn * 60_000)
    assert pool.free_count > pool.count * 3 // 4
    assert one.counter("demux", "udp_datagram_dropped_too_many_waiting") > 0
    sock.close()
    stream.finish()
    all_leave(one)


@pytest.mark.parametrize("size, at_least", [(100, 64), (1472, 20), (60_000, 4)])
def test_first_datagrams_to_a_guest_that_has_to_be_asked_for_arrive_in_order(
    network: Make, size: int, at_least: int
) -> None:
    one = network(slots=512)
    absent = absent_ports(one, 4)
    flood(absent, bytes(1000))
    one.settle()
    guest = one.card.guest(1)
    client = one.forwarded_port("egress0", guest.addr)
    sent = [bytes([n]) * size for n in range(at_least + 10)]
    for payload in sent:
        client.send(payload)
        one.breathe("egress0", "demux")
    one.settle()
    got = [datagram.payload for datagram in guest.datagrams]
    assert len(got) >= at_least
    assert got == sent[: len(got)]
    # Once it is known nothing waits any more.
    client.send(b"afterwards")
    one.until(lambda: guest.datagrams[-1].payload == b"afterwards")
    assert len(one.stages["demux"].udp.waiting) == len(absent)
    all_leave(one)


def test_a_slot_is_kept_until_its_last_datagram_waits_no_more() -> None:
    waiting = WaitingSlots(slots=512, egress_workers=1)
    assert [waiting.add(0, 1, slot) for slot in range(5)] == [True] * 4 + [False]
    assert waiting.add(0, 1, 3)
    assert waiting.add(0, 2, 3)
    waiting.remove(0, 1, 3)
    assert not waiting.add(0, 1, 9)
    waiting.remove(0, 1, 3)
    assert waiting.add(0, 1, 9)
    assert not waiting.add(0, 1, 3)


def test_absent_guests_together_keep_a_bounded_number_of_slots_of_each_shard() -> None:
    waiting = WaitingSlots(slots=512, egress_workers=2)
    pairs = [(addr, slot) for addr in range(100) for slot in range(100)]
    assert sum(waiting.add(0, addr, slot) for addr, slot in pairs) == 16
    assert waiting.add(1, 1, 500)
    assert len(waiting) == 17
