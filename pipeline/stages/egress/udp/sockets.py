"""The UDP half of egress: flows of guests, and forwarded ports.

This file dispatches the records. Flows and their sockets are in flows.py, reading in reader.py, and forwarded
ports in forwards.py. Demux numbers the flows of guests and ends idle ones.
"""

import errno
from typing import Final

from pipeline.counters import INDEX
from pipeline.ipc.flow_rows import GATEWAY
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends
from pipeline.records.udp import UdpData
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.policy_filter import REFUSED
from pipeline.stages.egress.udp.cone import Cones
from pipeline.stages.egress.udp.connected import ConnectedSockets
from pipeline.stages.egress.udp.flows import NO_SOCKET, DatagramFlow, DatagramSockets, DatagramTable
from pipeline.stages.egress.udp.forwards import UdpForwards
from pipeline.stages.egress.udp.reader import DatagramReader

_NEVER: Final = float("inf")


class UdpSockets:
    """All UDP sockets of one egress worker."""

    def __init__(self, context: EgressContext, max_clients: int, *, full_cone: bool) -> None:
        """max_clients: of one forwarded port. full_cone: whether ``udp-nat`` is full-cone."""
        self._context = context
        self.table = DatagramTable()
        self._reader = DatagramReader(context, self.table, sources=full_cone)
        self._cones = Cones(context, self.table)
        self._sockets: DatagramSockets = self._cones if full_cone else ConnectedSockets(context, self.table)
        self.forwards = UdpForwards(context, self.table.sender, max_clients)

    # --- guest -> host ------------------------------------------------------------------

    def on_steered(self, data: UdpData, now: float) -> None:
        """Datagrams that ingress steered past demux. If their flow is over, they do not open it again."""
        if data.flow in self.table.flows_by_id:
            self.to_host(data, now)
        else:
            self._context.counts[NO_SOCKET] += 1
            self._context.worker.free(data.slot)

    def to_host(self, data: UdpData, now: float) -> None:
        """Send datagrams of a flow, and give their reference back. The first datagram opens the flow."""
        context = self._context
        pieces = data.views(context.slots[data.slot])
        if data.flow & FLOW_FROM_EGRESS:
            self.forwards.to_host(data.flow, pieces, data.piece_size, now)
        else:
            flow = self.table.flows_by_id.get(data.flow)
            if flow is None:
                flow = self._open(data, now)
            if flow is not None:
                if flow.socket.use(now):
                    context.bound.adopt(flow.socket, data.link)
                flow.from_guest(len(pieces), data.length, now)
                flow.socket.send(flow, pieces, data.piece_size)
        context.worker.free(data.slot)

    def _open(self, data: UdpData, now: float) -> DatagramFlow | None:
        """A new flow. None if it cannot be opened: demux then tells the guest, if ICMP has a message."""
        context = self._context
        ends = Ends.of(data.key)
        target = context.targets.udp_target(ends.remote_addr, ends.remote_port)
        if target.refused:
            context.counts[INDEX[target.refused]] += 1
            context.notices.notify_udp_closed(data.flow)
            return None
        guest = context.bound.guest_of(data.link)
        rule = ""
        if context.policy.active:
            rule = context.policy.refuses(ends.guest_addr, ends.remote_addr, ends.remote_port, "udp")
        if rule:
            error = REFUSED
            context.reports.refused("udp", guest, ends, rule=rule, error=error)
        else:
            try:
                sock = self._sockets.socket_for(guest, ends, target.addr, now)
                flow = sock.open_flow(data.flow, data.key, target.addr, now)
            except OSError as failure:
                context.counts[NO_SOCKET] += 1
                error = failure.errno or errno.EIO
                context.reports.not_opened("udp", guest, ends, error)
            else:
                if context.reports.wants_opened():
                    context.reports.opened(flow.row(now))
                return flow
        context.notices.notify_datagram_failed(data.key, error)
        context.notices.notify_udp_closed(data.flow)
        return None

    # --- host -> guest ------------------------------------------------------------------

    def read_ready(self, now: float) -> int:
        """Read a bounded number of datagrams from each socket that has some. Returns how many."""
        context = self._context
        if not (self.table.ready or self.forwards.ready):
            return 0
        if context.demux_out.room() <= 0 or context.ingress_out.room() <= 0:
            return 0
        return self._reader.read_ready(now) + self.forwards.read_ready(now)

    def deadline(self) -> float:
        """When there is more to read: 0 for at once."""
        return 0.0 if self._reader.more or self.forwards.more else self._reader.deadline()

    def end_forbidden(self) -> int:
        """End the guests' flows that the policy, which is new, forbids. Returns how many."""
        policy = self._context.policy
        ended = 0
        for flow in list(self.table.flows_by_id.values()):
            ends = Ends.of(flow.key)
            if policy.ends(ends.guest_addr, ends.remote_addr, ends.remote_port, "udp"):
                flow.forbid()
                ended += 1
        return ended

    # --- ends -------------------------------------------------------------------------

    def close(self, number: int) -> None:
        """Demux has ended the flow. A flow that is over already is ignored."""
        if number & FLOW_FROM_EGRESS:
            self.forwards.close(number)
        elif (flow := self.table.flows_by_id.get(number)) is not None:
            flow.close()

    def end(self, number: int) -> bool:
        """An operator ends a flow. False if there is none with this number."""
        if number & FLOW_FROM_EGRESS:
            return self.forwards.end(number)
        flow = self.table.flows_by_id.get(number)
        if flow is None:
            return False
        flow.end(GATEWAY, "deleted")
        return True

    def held(self) -> dict[str, int]:
        """How many of each thing there is for guests."""
        return {
            "udp_flows": len(self.table.flows_by_id),
            "cones": len(self._cones),
            "forward_clients": len(self.forwards.clients_by_id),
            "ready_datagram_sockets": len(self.table.ready) + len(self.forwards.ready),
        }

    def close_all(self) -> None:
        """Close every socket, since the worker ends."""
        self.forwards.close_all()
        for flow in list(self.table.flows_by_id.values()):
            flow.close()
