"""Memory for bytes that no host has taken: with real connections, without rings."""

from pipeline.config.limits import Limits
from pipeline.engines.tcp import actions
from pipeline.stages.tcp.flow import Guest
from pipeline.stages.tcp.memory import FLOOR, MIN_WINDOW, ReceiveMemory
from tests.support.flows import CONFIG, data, flow_of, on_link

MIB = 1 << 20


def memory(mtu: int = 1500) -> ReceiveMemory:
    limits = Limits(max_receive_memory=8 * MIB, max_receive_memory_per_guest=4 * MIB)
    return ReceiveMemory(limits, mtu)


def test_the_smallest_window_takes_two_packets_of_any_mtu() -> None:
    of = memory(mtu=65520)
    flow = flow_of(on_link(Guest(1)))
    of.charge(flow, 4 * MIB, 0.0)
    assert flow.conn.rcv.limit == 2 * 65520


def test_windows_shrink_with_the_memory_that_is_left_and_grow_again() -> None:
    of = memory()
    guest = Guest(1)
    flow = flow_of(on_link(guest))
    of.charge(flow, MIB // 2, 0.0)
    assert flow.conn.rcv.limit == CONFIG.max_receive_window
    of.charge(flow, MIB, 0.0)
    assert guest.pressed
    assert flow.conn.rcv.limit == (4 * MIB - MIB - MIB // 2) // 8
    of.charge(flow, 5 * MIB // 2, 0.0)
    assert of.fits(flow, 101, MIB) == FLOOR
    assert flow.conn.rcv.limit == MIN_WINDOW
    of.taken(flow, 4 * MIB, 0.0)
    assert of.fits(flow, 101, MIB) == MIB
    assert flow.conn.rcv.limit == CONFIG.max_receive_window


def test_one_guest_that_fills_its_part_leaves_the_rest_to_others() -> None:
    of = memory()
    hog, honest = Guest(1), Guest(2)
    flow = flow_of(on_link(hog))
    of.charge(flow, 4 * MIB, 0.0)
    assert of.fits(flow, 101, MIB) == FLOOR
    other = flow_of(on_link(honest))
    of.charge(other, MIB, 0.0)
    assert of.fits(other, 101, MIB) == MIB


def test_near_the_end_a_connection_may_hold_a_share_of_what_is_left_and_what_came_before_needs_no_room() -> (
    None
):
    of = memory()
    guest = Guest(1)
    hog, flow = flow_of(on_link(guest), 1), flow_of(on_link(guest), 2)
    of.charge(hog, 4 * MIB - 80_000, 0.0)
    assert of.fits(flow, 101, 60_000) == 10_000
    flow.conn.on_segment(data(0, 9_000, 5), 0.0)
    assert of.fits(flow, 9_101, 60_000) == 1_000
    assert of.fits(flow, 8_101, 60_000) == 2_000
    assert of.fits(flow, 20_101, 60_000) == 0
    flow.conn.on_segment(data(9_000, 9_000, 6), 0.0)
    assert of.fits(flow, 18_101, 60_000) == 0
    assert of.fits(flow, 101, 18_000) == 18_000


def test_what_an_ended_connection_held_is_free_again() -> None:
    of = memory()
    guest = Guest(1)
    flow = flow_of(on_link(guest))
    flow.conn.on_segment(data(0, 1000, 5), 0.0)
    delivered = sum(a.length for a in flow.conn.take_actions() if isinstance(a, actions.Deliver))
    of.charge(flow, delivered, 0.0)
    assert (of.held_bytes, guest.held_bytes) == (1000, 1000)
    of.release(flow)
    assert (of.held_bytes, guest.held_bytes) == (0, 0)
