"""The UDP half of egress: flows of guests, and forwarded ports.

This file dispatches the records. Flows and their sockets are in flows.py, reading in reader.py, and forwarded
ports in forwards.py. Demux numbers the flows of guests and ends idle ones.
"""

import errno
from typing import Final

from pipeline.counters import INDEX
from pipeline.ipc.flow_rows import GATEWAY
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends
from pipeline.records.streams import Connect
from pipeline.records.udp import UdpData
from pipeline.stages.egress.asks import Asks
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.policy_filter import REFUSED
from pipeline.stages.egress.udp.cone import Cones
from pipeline.stages.egress.udp.connected import ConnectedSockets
from pipeline.stages.egress.udp.flows import (
    NO_SOCKET,
    DatagramFlow,
    DatagramSocket,
    DatagramSockets,
    DatagramTable,
)
from pipeline.stages.egress.udp.forwards import UdpForwards
from pipeline.stages.egress.udp.holds import Hold, Holds, Request
from pipeline.stages.egress.udp.reader import DatagramReader
from pipeline.wire.stated import Stated

_Waiting = tuple[int, Connect]
_HELD_LOST: Final = INDEX["egress_datagram_dropped_held"]


class UdpSockets:
    """All UDP sockets of one egress worker."""

    def __init__(
        self, context: EgressContext, max_clients: int, asks: Asks[_Waiting], *, full_cone: bool
    ) -> None:
        """max_clients: of one forwarded port. asks: what somebody has to decide.

        full_cone: whether ``udp-nat`` is full-cone.
        """
        self._asks = asks
        self._context = context
        self.table = DatagramTable()
        self._reader = DatagramReader(context, self.table, sources=full_cone)
        self._cones = Cones(context, self.table)
        self._sockets: DatagramSockets = self._cones if full_cone else ConnectedSockets(context, self.table)
        self._holds = Holds()
        self.forwards = UdpForwards(context, self.table.sender, max_clients)

    # --- guest -> host ------------------------------------------------------------------

    def on_steered(self, data: UdpData, now: float) -> None:
        """Datagrams that ingress steered past demux. If their flow is over, they do not open it again."""
        if data.flow in self.table.flows_by_id or data.flow in self._holds:
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
                hold = self._holds.get(data.flow)
                flow = self._ask(data, pieces, now) if hold is None else self._held(hold, pieces)
            if flow is not None:
                if flow.socket.use(now) or flow.socket.link != data.link:
                    self._adopt(flow.socket, data.link)
                flow.from_guest(len(pieces), data.length, now)
                flow.socket.send(flow, pieces, data.piece_size)
        context.worker.free(data.slot)

    def _adopt(self, sock: DatagramSocket, link: int) -> None:
        """The guest on this link uses the socket. It may be back with another number."""
        before = sock.guest
        sock.link = link
        self._context.bound.adopt(sock, link)
        if sock.guest != before and self._context.policy.quotas.on:
            for flow in sock.flows.values():
                self._renew_meter(flow)

    def _ask(self, data: UdpData, pieces: list[memoryview], now: float) -> DatagramFlow | None:
        """A new flow. None if it is not open now: it is held, or demux tells the guest, if ICMP can."""
        context = self._context
        ends = Ends.of(data.key)
        target = context.targets.udp_target(ends.remote_addr, ends.remote_port)
        if target.refused:
            context.counts[INDEX[target.refused]] += 1
            context.notices.notify_udp_closed(data.flow)
            return None
        request = Request(data.flow, data.key, data.link, target.addr)
        if not context.policy.active:
            return self._open(request, "", None, now)
        verdict = context.policy.judge(ends.guest_addr, ends.remote_addr, ends.remote_port, "udp")
        if verdict.hold:
            return self._held(self._holds.add(request, now, denies=context.policy.denies_quic), pieces)
        if context.policy.asks(verdict):
            return self._ask_about(request, ends, verdict.rule, now)
        if not verdict.allow:
            self._refuse(request, verdict.rule, "")
            return None
        return self._open(request, verdict.rule, None, now)

    def _ask_about(self, request: Request, ends: Ends, rule: str, now: float) -> DatagramFlow | None:
        """Ask about a flow, unless somebody has decided a moment ago. Its datagrams are lost meanwhile."""
        answer = self._asks.answer(ends, "udp", now)
        if answer is not None and answer.allow:
            return self._open(request, rule, None, now)
        guest = self._context.bound.guest_of(request.link)
        if answer is None and self._asks.ask(ends, "udp", guest, request.link, rule, now) is not None:
            self._context.counts[_HELD_LOST] += 1
            self._context.notices.notify_udp_closed(request.number)
            return None
        self._context.policy.refuse(ends, "udp", rule)
        self._refuse(request, rule, "")
        return None

    def _held(self, hold: Hold, pieces: list[memoryview], *, last: bool = False) -> DatagramFlow | None:
        """Datagrams of a held flow. Returns the flow if it is open now: its earlier datagrams are sent."""
        context = self._context
        request = hold.request
        before = hold.count
        stated = hold.read(pieces, last=last)
        if stated is None:
            context.counts[_HELD_LOST] += len(pieces) - (hold.count - before)
            return None
        self._holds.remove(request.number)
        verdict = context.policy.decide(Ends.of(request.key), "udp", stated)
        if not verdict.allow:
            context.counts[_HELD_LOST] += before + len(pieces)
            self._refuse(request, verdict.rule, stated.name)
            return None
        flow = self._open(request, verdict.rule, stated, hold.since)
        if flow is not None:
            for datagram in hold.datagrams[:before]:
                flow.from_guest(1, len(datagram), hold.since)
                flow.socket.send(flow, [memoryview(datagram)], len(datagram))
        return flow

    def _refuse(self, request: Request, rule: str, name: str) -> None:
        context = self._context
        guest = context.bound.guest_of(request.link)
        context.reports.refused("udp", guest, Ends.of(request.key), rule=rule, error=REFUSED, name=name)
        self._end(request, REFUSED)

    def _end(self, request: Request, error: int) -> None:
        """Tell demux that the flow is over before it was open."""
        self._context.notices.notify_datagram_failed(request.key, error)
        self._context.notices.notify_udp_closed(request.number)

    def _open(self, request: Request, rule: str, stated: Stated | None, now: float) -> DatagramFlow | None:
        """Open a socket for a flow that may have one. None if there is none."""
        context = self._context
        ends = Ends.of(request.key)
        guest = context.bound.guest_of(request.link)
        meter = context.policy.quotas.meter(guest, ends.guest_addr)
        if meter is not None and (used_up := context.policy.over_quota(meter, ends, "udp")):
            self._refuse(request, used_up, stated.name if stated is not None else "")
            return None
        try:
            sock = self._sockets.socket_for(guest, ends, request.host_addr, now)
            flow = sock.open_flow(request.number, request.key, request.host_addr, now)
        except OSError as failure:
            context.counts[NO_SOCKET] += 1
            error = failure.errno or errno.EIO
            context.reports.not_opened("udp", guest, ends, error)
            self._end(request, error)
            return None
        flow.rule, flow.stated = rule, stated
        if meter is not None:
            meter.opened()
            flow.count_in(meter)
        if context.reports.wants_opened():
            context.reports.opened(flow.row(now))
        return flow

    def expire(self, now: float) -> None:
        """Decide on flows whose datagrams have stated no name for too long."""
        if self._holds.deadline() > now:  # in nearly every step
            return
        for hold in self._holds.due(now):
            self._held(hold, [], last=True)

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
        """When there is more to read, or expire() is due."""
        if self._reader.more or self.forwards.more:
            return 0.0
        return min(self._reader.deadline(), self._holds.deadline())

    def end_forbidden(self) -> int:
        """End the guests' flows that the policy, which is new, forbids. Returns how many."""
        policy = self._context.policy
        ended = 0
        for flow in list(self.table.flows_by_id.values()):
            ends = Ends.of(flow.key)
            if policy.ends(ends, "udp", flow.stated):
                flow.forbid()
                ended += 1
        return ended

    def renew_meters(self) -> None:
        """There are other quotas: count the bytes of open flows in their accounts from now on."""
        for flow in self.table.flows_by_id.values():
            self._renew_meter(flow)

    def _renew_meter(self, flow: DatagramFlow) -> None:
        addr = Ends.of(flow.key).guest_addr
        flow.count_in(self._context.policy.quotas.meter(flow.socket.guest, addr))

    def end_used_up(self) -> None:
        """End the flows of guests whose bytes are used up."""
        for flow in list(self.table.flows_by_id.values()):
            rule = flow.meter.cut_by if flow.meter is not None else ""
            if rule:
                self._context.policy.ended_by_quota()
                flow.forbid(rule)

    # --- ends -------------------------------------------------------------------------

    def close(self, number: int) -> None:
        """Demux has ended the flow. A flow that is over already is ignored."""
        if number & FLOW_FROM_EGRESS:
            self.forwards.close(number)
        elif (flow := self.table.flows_by_id.get(number)) is not None:
            flow.close()
        elif number in self._holds:
            self._holds.remove(number)

    def end(self, number: int) -> bool:
        """An operator ends a flow. False if there is none with this number."""
        if number & FLOW_FROM_EGRESS:
            return self.forwards.end(number)
        flow = self.table.flows_by_id.get(number)
        if flow is None:
            return False
        flow.end(GATEWAY, "deleted")
        return True

    def on_demux_lost(self) -> None:
        """Demux has died, and with it all flows. Forwarded ports go on, and their clients are new ones."""
        for flow in list(self.table.flows_by_id.values()):
            flow.close()
        self._holds.clear()
        self.forwards.end_clients()

    def held(self) -> dict[str, int]:
        """How many of each thing there is for guests."""
        return {
            "udp_flows": len(self.table.flows_by_id),
            "held_udp_flows": len(self._holds),
            "cones": len(self._cones),
            "forward_clients": len(self.forwards.clients_by_id),
            "ready_datagram_sockets": len(self.table.ready) + len(self.forwards.ready),
        }

    def close_all(self) -> None:
        """Close every socket, since the worker ends."""
        self.forwards.close_all()
        for flow in list(self.table.flows_by_id.values()):
            flow.close()
