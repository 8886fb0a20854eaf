"""Whose turn it is to read, and which of the flows that wait for slots is tried next."""

from pipeline.stages.egress.sockets import GuestSocket
from pipeline.stages.egress.tcp.turns import ReadTurns


def made(count: int, guest: int = 1) -> tuple[ReadTurns[GuestSocket], list[GuestSocket]]:
    """Flows of one guest that all wait."""
    turns: ReadTurns[GuestSocket] = ReadTurns()
    flows = [GuestSocket(guest) for _ in range(count)]
    for flow in flows:
        turns.wait(flow)
    return turns, flows


def test_the_flow_that_waits_for_longest_is_tried_first() -> None:
    turns, flows = made(2)
    turns.wake()
    assert list(turns.ready) == flows[:1]
    turns.ready.clear()
    turns.wake()
    assert list(turns.ready) == flows[1:]
    turns.ready.clear()
    turns.wake()
    assert not turns.ready
    assert turns.waiting_count == 0


def test_one_flow_of_each_guest_is_tried_at_a_time() -> None:
    turns, flows = made(3)
    other = GuestSocket(2)
    turns.wait(other)
    turns.wake()
    assert list(turns.ready) == [flows[0], other]
    assert turns.waiting_count == 2


def test_a_flow_that_found_room_passes_the_turn_on() -> None:
    turns, flows = made(2)
    turns.wake()
    del turns.ready[flows[0]]
    turns.pass_on(flows[0])
    assert list(turns.ready) == [flows[1]]
    assert turns.more
    turns.pass_on(flows[1])
    assert not turns.waits(flows[1])


def test_a_flow_that_is_over_passes_on_the_turn_that_it_was_woken_for() -> None:
    turns, flows = made(3)
    turns.remove(flows[1])
    assert not turns.ready, "it only waited"
    turns.wake()
    turns.remove(flows[0])
    assert list(turns.ready) == [flows[2]]


def test_slots_of_the_flow_itself_that_come_home_end_its_wait() -> None:
    turns, flows = made(2)
    turns.returned(flows[1])
    assert list(turns.ready) == [flows[1]]
    assert not turns.waits(flows[1])
    assert turns.waits(flows[0])
