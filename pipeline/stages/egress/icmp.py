"""Guests' pings of hosts beyond the gateway, over unprivileged ICMP sockets.

Each guest, identifier and pinged address has a socket of its own. Egress sends a request with its TTL less
one and with its don't-fragment bit, so traceroute and path-MTU discovery work through the gateway. Only
replies, "time exceeded" and "fragmentation needed" go back to the guest, and the error "administratively
prohibited" if a rule refuses the ping. If the system does not allow such sockets, egress logs that once and
counts every request. Systems other than Linux report no ICMP errors to these sockets, so a traceroute sees
only the last hop there.
"""

import errno
import os
import socket
from collections import OrderedDict
from time import monotonic
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import refusal
from pipeline.host import icmp as host_icmp
from pipeline.ipc import events as ev
from pipeline.ipc.flow_rows import GATEWAY, OUT, FlowRow
from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends
from pipeline.records.icmp import EchoError, EchoReply, EchoRequest
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.policy_filter import REFUSED
from pipeline.stages.egress.sockets import GuestSocket
from pipeline.stages.egress.traffic import Traffic
from pipeline.stages.flow_reports import LIMIT, POLICY, TOO_MANY_SOCKETS
from pipeline.wire import icmp, ip

MAX_FLOWS: Final = 256
"""Most sockets of one egress worker. One more closes the socket that is idle for longest."""
MAX_FLOWS_PER_GUEST: Final = 64
"""Most sockets of one guest address. One more closes a socket of this guest."""
IDLE: Final = 10.0
"""Seconds without a packet after which a socket is closed. No ping waits longer for a reply."""
READS: Final = 16
MAX_MESSAGE: Final = 65515

FIRST_NUMBER: Final = 1 << 32
"""Numbers of ping flows begin here. Those of UDP flows have 32 bits."""

_SEQUENCE_OFF: Final = 6
_NEVER: Final = float("inf")
_FORWARDED: Final = INDEX["icmp_echo_forwarded"]
_REPLIED: Final = INDEX["icmp_echo_replied"]
_ERRORS: Final = INDEX["icmp_error_forwarded"]
_FLOWS: Final = INDEX["icmp_echo_flows"]
_EVICTED: Final = INDEX["icmp_echo_flow_evicted"]
_NOT_PERMITTED: Final = INDEX["icmp_echo_dropped_not_permitted"]
_SEND_FAILED: Final = INDEX["icmp_echo_dropped_send_failed"]
_NO_ROOM: Final = INDEX["icmp_reply_dropped_no_room"]

Key = tuple[Addr, int, Addr]
"""Guest's address, identifier, pinged address."""


class EchoFlow(GuestSocket):
    """One pinger's socket."""

    def __init__(
        self, flows: "EchoSockets", key: Key, sock: socket.socket, guest: int, ident: int, rule: str
    ) -> None:
        """ident: the identifier to use towards the host; 0 where the system chooses it.

        rule: what has allowed the flow, if the egress policy was asked.
        """
        super().__init__(guest)
        self.number = flows.next_number()
        self.key = key
        self.sock = sock
        self.ident = ident
        self.traffic = Traffic(monotonic())
        self.rule = rule
        self._flows = flows
        self._path = (0, False)
        """The TTL and the don't-fragment bit that are set on the socket."""
        flows.add(self)

    def send(self, request: EchoRequest, message: memoryview) -> None:
        """Send a request as the guest meant it. Raises OSError."""
        path = (request.hops_left, request.dont_fragment)
        if self._path != path:
            host_icmp.set_path(self.sock, request.hops_left, dont_fragment=request.dont_fragment)
            self._path = path
        data = host_icmp.request_for(self.sock, message)
        if self.ident:
            data = host_icmp.with_ident(data, self.ident)
        try:
            self.sock.send(data)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise
            # The kernel reports an error about an earlier request here. This one has not been sent.
            self.sock.send(data)

    def asked(self, length: int) -> None:
        """The guest sent a request of this many bytes."""
        self.traffic.from_guest(1, length, monotonic())
        self._flows.used(self)

    def answered(self, length: int) -> None:
        """A reply is on its way to the guest."""
        self.traffic.to_guest(1, length, monotonic())
        self._flows.used(self)

    def on_event(self, events: int) -> None:
        """The poller has events of the socket."""
        self._flows.on_event(self, events)

    def evict(self) -> None:
        """Another flow needs the socket."""
        self.end(LIMIT)

    def delete(self) -> None:
        """An operator ends the flow."""
        self.end("deleted")

    def end(self, reason: str) -> None:
        """Close the socket, and report it. reason: see docs/flows.md."""
        self._flows.report_end(self, reason)
        self.close()

    def row(self, now: float) -> FlowRow:
        """See Traffic. The guest's port is the identifier of its pings."""
        guest_addr, identifier, remote_addr = self.key
        ends = Ends(guest_addr, identifier, remote_addr, 0)
        return self.traffic.counted(self.number, "icmp", OUT, self.guest, ends, now)

    def close(self) -> None:
        """Close the socket."""
        self._flows.remove(self)
        self.sock.close()


class EchoSockets:
    """All ICMP sockets of one egress worker."""

    def __init__(self, context: EgressContext) -> None:
        self._context = context
        self._worker = context.worker
        self._counts = context.counts
        self._slots = context.slots
        self._filler = context.filler
        self._demux_out = context.demux_out
        self._bound = context.bound
        self.flows: OrderedDict[Key, EchoFlow] = OrderedDict()
        """The one idle for longest first."""
        self._opened = 0
        self._warned = False
        self._last_ident = int.from_bytes(os.urandom(2), "big")

    # --- guest -> host ------------------------------------------------------------------

    def to_host(self, request: EchoRequest) -> None:
        """Send one echo request, and give its reference back."""
        key = (request.guest_addr, request.identifier, request.remote_addr)
        flow = self.flows.get(key)
        guest = self._bound.guest_of(request.link)
        if flow is None:
            flow = self._open(key, guest, request.sequence)
        elif flow.guest != guest:
            self._bound.adopt(flow, request.link)
            self._renew_meter(flow)
        if flow is not None:
            self._send(flow, request)
        self._worker.free(request.slot)

    def _send(self, flow: EchoFlow, request: EchoRequest) -> None:
        flow.asked(request.length)
        begin, end = request.off, request.off + request.length
        try:
            flow.send(request, self._slots[request.slot][begin:end])
            self._counts[_FORWARDED] += 1
        except OSError as error:
            if error.errno == errno.EMSGSIZE and request.dont_fragment:
                # The gateway is the router whose next hop has the smaller MTU.
                mtu = host_icmp.path_mtu(flow.sock)
                too_big = (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, mtu, 0, request.sequence)
                self._forward_error(flow, host_icmp.EchoError(*too_big))
            else:
                self._counts[_SEND_FAILED] += 1

    def _open(self, key: Key, guest: int, sequence: int) -> EchoFlow | None:
        """The flow of an echo request with this sequence number; None if there is no socket for it."""
        guest_addr, identifier, remote_addr = key
        ends = Ends(guest_addr, identifier, remote_addr, 0)
        reports = self._context.reports
        target = self._context.targets.icmp_target(remote_addr)
        if target.refused:
            self._counts[INDEX[target.refused]] += 1
            reports.refused("icmp", guest, ends, rule=target.refused, error=target.errno)
            return None
        policy = self._context.policy
        verdict = policy.judge(guest_addr, remote_addr, 0, "icmp") if policy.active else None
        rule = verdict.rule if verdict is not None else ""
        refused_by = rule if verdict is not None and not verdict.allow else ""
        meter = None if refused_by else policy.quotas.meter(guest, guest_addr)
        if meter is not None:
            refused_by = policy.over_quota(meter, ends, "icmp")
        if refused_by:
            reports.refused("icmp", guest, ends, rule=refused_by, error=REFUSED)
            code = refusal.answer_to_datagram(REFUSED)
            self._notify_error(key, host_icmp.EchoError(icmp.UNREACHABLE, code, 0, 0, sequence))
            return None
        self._make_room(guest_addr)
        addr = ip.text(target.addr)
        outbound = self._context.outbound
        try:
            sock = self._bound.datagram_socket(guest, lambda: host_icmp.open_echo(addr, outbound))
        except OSError as error:
            if error.errno in host_icmp.NOT_PERMITTED:
                self._counts[_NOT_PERMITTED] += 1
                self._warn(error)
            else:
                self._counts[_SEND_FAILED] += 1
            reports.not_opened("icmp", guest, ends, error.errno or errno.EIO)
            return None
        if sock is None:
            reports.refused("icmp", guest, ends, limit=TOO_MANY_SOCKETS, error=errno.EMFILE)
            return None
        flow = EchoFlow(self, key, sock, guest, self._free_ident(), rule)
        if meter is not None:
            meter.opened()
            flow.traffic.meter = meter
        if reports.wants_opened():
            reports.opened(flow.row(monotonic()))
        return flow

    def report_end(self, flow: EchoFlow, reason: str) -> None:
        """A flow ends for this reason."""
        reports = self._context.reports
        if reports.wants_ended():
            row = flow.row(monotonic())._replace(state="closed")
            reports.closed(row, GATEWAY, reason, rule=flow.rule)

    def _free_ident(self) -> int:
        """An identifier that no flow has; 0 where sockets have their own."""
        if host_icmp.OWN_IDENT:
            return 0
        used = {flow.ident for flow in self.flows.values()}
        while True:
            self._last_ident = self._last_ident % 0xFFFF + 1
            if self._last_ident not in used:
                return self._last_ident

    def _make_room(self, guest_addr: Addr) -> None:
        """Close the flow idle for longest, of this guest or of all, if a bound is reached."""
        own = [flow for key, flow in self.flows.items() if key[0] == guest_addr]
        if len(own) >= MAX_FLOWS_PER_GUEST:
            oldest = own[0]
        elif len(self.flows) >= MAX_FLOWS:
            oldest = next(iter(self.flows.values()))
        else:
            return
        self._counts[_EVICTED] += 1
        oldest.end(LIMIT)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            self._worker.log.warning(
                "pings of guests are not forwarded: this system allows no unprivileged ICMP sockets",
                error=str(error),
                setting="net.ipv4.ping_group_range",
            )

    # --- host -> guest ------------------------------------------------------------------

    def on_event(self, flow: EchoFlow, events: int) -> None:
        """The poller has events of a flow's socket. The flow may have been closed since."""
        if self.flows.get(flow.key) is not flow:
            return
        if events & ev.ERROR:
            for error in host_icmp.errors(flow.sock, READS):
                if error.type == icmp.TIME_EXCEEDED or (
                    error.type == icmp.UNREACHABLE and error.code == icmp.FRAGMENTATION_NEEDED
                ):
                    self._forward_error(flow, error)
        for _ in range(READS):
            if not self._read(flow):
                break

    def _read(self, flow: EchoFlow) -> bool:
        """Read one reply. Returns whether there may be another."""
        filler = self._filler
        if self._demux_out.room() <= 0 or not filler.place(MAX_MESSAGE):
            return self._discard(flow)
        slot, off = filler.slot, filler.off
        view = self._slots[slot][off : off + MAX_MESSAGE]
        try:
            length = flow.sock.recv_into(view)
        except BlockingIOError:
            return False
        except OSError:
            # The error of a request, which the error queue has reported already.
            return True
        start = host_icmp.reply_in(view[:length], flow.ident)
        if start < 0:
            return True
        filler.commit(length)
        flow.answered(length - start)
        self._counts[_REPLIED] += 1
        guest_addr, identifier, remote_addr = flow.key
        at = start + _SEQUENCE_OFF
        reply = EchoReply(
            slot=slot,
            off=off + start,
            length=length - start,
            guest_addr=guest_addr,
            remote_addr=remote_addr,
            identifier=identifier,
            sequence=view[at] << 8 | view[at + 1],
        )
        self._demux_out.push(reply.pack())
        return True

    def _discard(self, flow: EchoFlow) -> bool:
        try:
            flow.sock.recv(1)
        except OSError:
            return False
        self._counts[_NO_ROOM] += 1
        return True

    def _forward_error(self, flow: EchoFlow, error: host_icmp.EchoError) -> None:
        """Forward an error of the way to the pinged host."""
        self._counts[_ERRORS] += 1
        self._notify_error(flow.key, error)

    def _notify_error(self, key: Key, error: host_icmp.EchoError) -> None:
        """Tell demux about an error, which it passes on to the guest."""
        guest_addr, identifier, remote_addr = key
        offender = ip.as_seen_from(error.offender, guest_addr) if error.offender else 0
        record = EchoError(
            guest_addr=guest_addr,
            remote_addr=remote_addr,
            identifier=identifier,
            sequence=error.seq,
            type=error.type,
            code=error.code,
            offender=offender,
            mtu=error.mtu,
        )
        self._demux_out.push(record.pack())

    # --- the table of flows -------------------------------------------------------------------

    def next_number(self) -> int:
        """The number of a new flow."""
        self._opened += 1
        return FIRST_NUMBER + self._opened

    def add(self, flow: EchoFlow) -> None:
        """A flow with a socket of its own begins."""
        self.flows[flow.key] = flow
        self._bound.opened(flow)
        self._counts[_FLOWS] = len(self.flows)
        self._worker.register(flow.sock.fileno(), ev.READ, flow.on_event)

    def used(self, flow: EchoFlow) -> None:
        """A packet of the flow went either way."""
        self.flows.move_to_end(flow.key)
        self._bound.used(flow)

    def remove(self, flow: EchoFlow) -> None:
        """The flow closes its socket."""
        del self.flows[flow.key]
        self._bound.closed(flow)
        self._worker.unregister(flow.sock.fileno())
        self._counts[_FLOWS] = len(self.flows)

    def expire(self, now: float) -> None:
        """Close what has been idle for too long."""
        while self.flows and self.deadline() <= now:
            next(iter(self.flows.values())).end("idle")

    def deadline(self) -> float:
        """When the flow that is idle for longest expires."""
        return next(iter(self.flows.values())).traffic.last_at + IDLE if self.flows else _NEVER

    def end_forbidden(self) -> int:
        """End the pings that the policy, which is new, forbids. Returns how many pingers had one."""
        ended = 0
        for flow in list(self.flows.values()):
            guest_addr, identifier, remote_addr = flow.key
            if self._context.policy.ends(Ends(guest_addr, identifier, remote_addr, 0), "icmp"):
                flow.end(POLICY)
                ended += 1
        return ended

    def renew_meters(self) -> None:
        """There are other quotas: count the bytes of pings in their accounts from now on."""
        for flow in self.flows.values():
            self._renew_meter(flow)

    def _renew_meter(self, flow: EchoFlow) -> None:
        flow.traffic.meter = self._context.policy.quotas.meter(flow.guest, flow.key[0])

    def end_used_up(self) -> None:
        """End the pings of guests whose bytes are used up."""
        for flow in list(self.flows.values()):
            rule = flow.traffic.meter.cut_by if flow.traffic.meter is not None else ""
            if rule:
                self._context.policy.ended_by_quota()
                flow.rule = rule
                flow.end(POLICY)

    def close(self) -> None:
        """Close every socket, since the worker ends."""
        for flow in list(self.flows.values()):
            flow.close()
