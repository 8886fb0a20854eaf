"""Reports UDP flows and pings to the supervisor when it asks. Tcp reports connections."""

from collections.abc import Sequence
from time import monotonic

from pipeline.records.flows import FLOW_FROM_EGRESS
from pipeline.stages.egress.icmp import FIRST_NUMBER, EchoFlow, EchoSockets
from pipeline.stages.egress.traffic import Traffic
from pipeline.stages.egress.udp.sockets import UdpSockets


class FlowRows:
    """The flows of one egress worker, by number. UDP flows of guests, clients and pings have ranges of it."""

    def __init__(self, udp: UdpSockets, icmp: EchoSockets) -> None:
        self._udp = udp
        self._icmp = icmp

    def numbers(self) -> list[int]:
        """The numbers of all flows."""
        return [*self._udp.table.flows_by_id, *self._udp.forwards.clients_by_id, *self._pings()]

    def of_numbers(self, numbers: Sequence[int]) -> list[list[object]]:
        """The rows of those flows that are still there."""
        now = monotonic()
        pings = self._pings()
        found: list[list[object]] = []
        for number in numbers:
            flow: Traffic | EchoFlow | None
            if number >= FIRST_NUMBER:
                flow = pings.get(number)
            elif number & FLOW_FROM_EGRESS:
                flow = self._udp.forwards.clients_by_id.get(number)
            else:
                flow = self._udp.table.flows_by_id.get(number)
            if flow is not None:
                found.append(list(flow.row(now)))
        return found

    def end(self, number: int) -> bool:
        """An operator ends a flow. The next packet opens another one. False if there is no such flow."""
        if number < FIRST_NUMBER:
            return self._udp.end(number)
        ping = self._pings().get(number)
        if ping is not None:
            ping.delete()
        return ping is not None

    def _pings(self) -> dict[int, EchoFlow]:
        return {flow.number: flow for flow in self._icmp.flows.values()}
