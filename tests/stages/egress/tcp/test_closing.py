"""Connections that are over for the guest: what they may keep for their hosts, and for how long."""

from pipeline.stages.egress.tcp.closing import CLOSING_FLOW_BYTES, CLOSING_PATIENCE, ClosingFlows


class _Closing:
    """A connection with bytes that its host has not taken."""

    def __init__(self, queued_bytes: int) -> None:
        self.queued_bytes = queued_bytes


def test_connections_that_are_over_keep_no_more_than_the_limit_for_their_hosts() -> None:
    closing: ClosingFlows[_Closing] = ClosingFlows(3 * CLOSING_FLOW_BYTES + 100, 10)
    flows = [_Closing(size) for size in (40, 40, 40)]
    assert [wait(closing, flow) for flow in flows] == [[], [], [flows[0]]]
    closing.remove(flows[0])
    giant = _Closing(5 * CLOSING_FLOW_BYTES)
    assert wait(closing, giant) == [flows[1], flows[2], giant]


def test_connections_that_are_over_are_bounded_in_number_however_little_they_keep() -> None:
    closing: ClosingFlows[_Closing] = ClosingFlows(1 << 40, 3)
    flows = [_Closing(1) for _ in range(4)]
    assert [wait(closing, flow) for flow in flows] == [[], [], [], [flows[0]]]
    small: ClosingFlows[_Closing] = ClosingFlows(3 * CLOSING_FLOW_BYTES + 100, 1 << 30)
    assert [wait(small, flow) for flow in flows] == [[], [], [], [flows[0]]]


def test_the_connection_whose_host_took_nothing_for_longest_makes_room() -> None:
    closing: ClosingFlows[_Closing] = ClosingFlows(1 << 40, 2)
    slow, stuck, newest = (_Closing(1) for _ in range(3))
    for flow in (slow, stuck):
        wait(closing, flow)
    assert wait(closing, stuck, 0, now=8.0) == wait(closing, slow, 1, now=9.0) == []
    assert closing.deadline() == CLOSING_PATIENCE
    assert wait(closing, newest, now=10.0) == [stuck]
    closing.remove(stuck)
    assert closing.due(9.0 + CLOSING_PATIENCE) == [slow]
    assert closing.due(10.0 + CLOSING_PATIENCE) == [slow, newest]


def wait(
    closing: ClosingFlows[_Closing], flow: _Closing, sent: int = 0, *, now: float = 0.0
) -> list[_Closing]:
    return closing.wait(flow, flow.queued_bytes, sent, now)
