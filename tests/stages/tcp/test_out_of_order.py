"""Slots and references of out-of-order data: with real connections, without rings."""

from pipeline.engines.tcp import actions
from pipeline.stages.tcp.flow import Flow, Guest
from pipeline.stages.tcp.out_of_order import OutOfOrder
from tests.support.flows import data, flow_of, on_link


def test_the_guest_that_holds_most_slots_out_of_order_loses_its_oldest() -> None:
    held = OutOfOrder(16, 1000)
    other = Guest(2)
    honest, hog = flow_of(on_link(Guest(1)), 1), flow_of(on_link(other), 2)
    newer = flow_of(on_link(other), 3)
    lost: list[Flow] = []
    slot = 100
    honest.conn.on_segment(data(10, 1, slot), 0.0)
    lost += held.note(honest)
    for flow in (hog, newer):
        for number in range(8):
            slot += 1
            flow.conn.on_segment(data(10 + 2 * number, 1, slot), 0.0)
            lost += held.note(flow)
    assert lost == [hog]
    assert not hog.conn.reassembly.ranges
    assert honest.conn.reassembly.ranges
    assert newer.conn.reassembly.ranges
    discarded = [a for a in hog.conn.take_actions() if isinstance(a, actions.Discard)]
    assert len(discarded) == 8


def test_many_ranges_in_few_slots_are_no_reason_to_lose_any() -> None:
    held = OutOfOrder(16, 1000)
    flow = flow_of(on_link(Guest(1)))
    for number in range(100):
        flow.conn.on_segment(data(10 + 2 * number, 1, number % 4), 0.0)
        assert held.note(flow) == []
    assert len(flow.conn.reassembly.ranges) == 100


def test_the_guest_that_holds_most_ranges_loses_its_oldest_however_few_slots_they_are_in() -> None:
    held = OutOfOrder(16, 100)
    honest = flow_of(on_link(Guest(1)), 1)
    greedy = Guest(2)
    hogs = [flow_of(on_link(greedy), number) for number in range(2, 12)]
    lost: list[Flow] = []
    for flow, count in [(honest, 30), *((hog, 20) for hog in hogs)]:
        for number in range(count):
            flow.conn.on_segment(data(10 + 2 * number, 1, number % 4), 0.0)
            lost += held.note(flow)
            assert sum(len(each.conn.reassembly.ranges) for each in (honest, *hogs)) <= 100
    assert lost == hogs[: len(lost)]
    assert len(lost) >= 7
    assert len(honest.conn.reassembly.ranges) == 30
    for flow in (honest, *hogs):
        held.forget(flow)
    assert held.ranges == 0


def test_data_that_were_lost_are_taken_when_they_come_again() -> None:
    flow = flow_of(on_link(Guest(1)))
    flow.conn.on_segment(data(1000, 1000, 1), 0.0)
    flow.conn.forget_out_of_order()
    flow.conn.take_actions()
    flow.conn.on_segment(data(0, 1000, 2), 0.0)
    flow.conn.on_segment(data(1000, 1000, 3), 0.0)
    delivered = [a.length for a in flow.conn.take_actions() if isinstance(a, actions.Deliver)]
    assert delivered == [1000, 1000]
