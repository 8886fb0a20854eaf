"""The TCP half of egress: connections that guests open, and those that host clients open to guests.

This file dispatches the records of tcp. flow.py has the states of a connection, reads.py reads from host
sockets, and writes.py writes to them.
"""

import socket
from typing import Final

from pipeline.config.limits import Limits
from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.policy import Verdict
from pipeline.host import tcp as host_tcp
from pipeline.host.stream import HostStream
from pipeline.ipc.arena import HEADROOM, SLOT_BYTES
from pipeline.records.addresses import Addr
from pipeline.records.dials import DialFailed
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowNotice, flow_of
from pipeline.records.kinds import (
    ABORT,
    CLOSED,
    CONNECT,
    DIAL_FAILED,
    GUEST_ANSWERED,
    GUEST_MOVED,
    ORPHANED,
    RECORD_BYTES,
    SHUTDOWN,
    TO_HOST,
    WINDOW,
)
from pipeline.records.streams import MAKE_WAY_NO, Connect, GuestAnswered, GuestMoved, ToHost, Window
from pipeline.records.udp import HEADER_ROOM
from pipeline.stages.egress.asks import Answer, Asks
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.policy_filter import REFUSED as REFUSED_ERRNO
from pipeline.stages.egress.sockets import NO_DESCRIPTOR
from pipeline.stages.egress.tcp import ways
from pipeline.stages.egress.tcp.closing import ClosingFlows
from pipeline.stages.egress.tcp.dials import PendingDials
from pipeline.stages.egress.tcp.flow import Flow
from pipeline.stages.egress.tcp.opener import Opener
from pipeline.stages.egress.tcp.reads import HostReads
from pipeline.stages.egress.tcp.share import Shares
from pipeline.stages.egress.tcp.states import DEAD, DIALLING
from pipeline.stages.egress.tcp.table import FlowTable
from pipeline.stages.egress.tcp.ways import Way
from pipeline.stages.egress.tcp.writes import HostWrites
from pipeline.stages.work_meter import WorkMeter
from pipeline.topology import INGRESS
from pipeline.wire import ip

CLOSING_PART: Final = 4
"""Connections in state CLOSING may have 1/CLOSING_PART of the sockets."""

NO_ROOM: Final = "too many connections to this guest"
NO_GUEST: Final = "no guest has this address"
REFUSED: Final = "the guest refused the connection"
TIMEOUT: Final = "the guest did not answer in time"

_Asked = tuple[int, Connect]
"""A connection that waits for an answer: its shard, and what the guest has asked for."""
_ACCEPTED: Final = INDEX["egress_connection_accepted"]
_FLOWS: Final = INDEX["egress_flows"]


class Connections:
    """All TCP connections of one egress worker."""

    def __init__(
        self,
        context: EgressContext,
        config: Config,
        opener: Opener,
        work: WorkMeter,
    ) -> None:
        """work: hears what it costs to open a connection."""
        self._worker = context.worker
        self._slots = context.slots
        self._shares = Shares(context.worker.pool, SLOT_BYTES, HEADROOM, HEADER_ROOM)
        self._bound = context.bound
        self._targets = context.targets
        self._policy = context.policy
        self._numbers = context.numbers
        self._opener = opener
        self._work = work
        self._tcp_out = context.tcp_out
        self._dials = PendingDials(context.demux_out)
        self._closing: ClosingFlows[Flow] = ClosingFlows(
            config.limits.max_closing_bytes, context.bound.limit // CLOSING_PART
        )
        # Without busy-polling, a worker that wakes early would only go back to sleep.
        prewakes = INGRESS if config.workers.busy_poll else ""
        self.flows: FlowTable[Flow] = FlowTable(context, self._dials, self._closing, prewakes)
        self.asks: Asks[_Asked] = Asks(
            context.worker, float(config.access.egress_policy.ask_seconds), self._on_answer
        )
        """What somebody has to decide, about connections and datagrams."""
        self._reports = context.reports
        self._reads = HostReads(context, self.flows)
        self._writes = HostWrites(context, self.flows, self._reads, config.limits.max_slots_per_flow)

    def set_limits(self, limits: Limits) -> None:
        """Change the limits."""
        self._closing.set_max_bytes(limits.max_closing_bytes)
        self._writes.set_max_flow_refs(limits.max_slots_per_flow)

    def end_forbidden(self) -> int:
        """Reset the guests' connections that the policy, which is new, forbids. Returns how many."""
        ended = 0
        for flow in list(self.flows.by_key.values()):
            ends = flow.ends
            if ends is None or self._targets.tcp_target(ends.remote_addr, ends.remote_port).service:
                continue
            if self._policy.ends(ends, "tcp", flow.stated, flow.way.via):
                flow.forbid()
                ended += 1
        return ended

    def renew_meters(self) -> None:
        """There are other quotas: count the bytes of open connections in their accounts from now on."""
        for flow in self.flows.by_key.values():
            flow.renew_meter()

    def end_used_up(self) -> None:
        """Reset the connections of guests whose bytes are used up."""
        for flow in list(self.flows.by_key.values()):
            rule = flow.meter.cut_by if flow.meter is not None else ""
            if rule:
                self._policy.ended_by_quota()
                self.flows.report_decision(flow, Verdict(True, rule))
                flow.forbid()

    # --- the step ---------------------------------------------------------------------------

    def write(self, now: float) -> None:
        """Write to host sockets, and give up dials that have waited too long."""
        self._writes.write(now)
        if self._dials.deadline() <= now:
            self._give_up_dialling(now)

    def read(self, now: float) -> int:
        """Read from host sockets, a bounded number of times. Returns how often."""
        return self._reads.read_ready(now)

    def on_small_read(self, now: float) -> None:
        """UDP sockets had little to read. That counts as a small flow, so the next steps are short."""
        self._reads.on_small_read(now)

    def deadline(self) -> float:
        """When the next step is due even without an event; 0 if there is more to read."""
        if self.flows.turns.more:
            return 0.0
        return min(self._reads.deadline(), min(self._writes.deadline(), self._dials.deadline()))

    def write_gauges(self) -> None:
        """Write the gauges of connections."""
        self._worker.counts[_FLOWS] = len(self.flows)

    # --- records from tcp -------------------------------------------------------------------

    def on_tcp_burst(self, shard: int, burst: memoryview) -> int:
        """Records of one tcp worker. Returns how many."""
        by_key = self.flows.by_key
        base = shard << 32
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == TO_HOST:
                run = ToHost.unpack(burst, at)
                flow = by_key.get(run.flow if run.flow & FLOW_FROM_EGRESS else base | run.flow)
                if flow is not None:
                    flow.enqueue(run)
                else:
                    # The host's side has ended. Tcp sent these bytes before it heard of that.
                    self._worker.free(run.slot)
                continue
            if kind == CONNECT:
                self._open(shard, Connect.unpack(burst, at))
                continue
            number = flow_of(burst, at)
            flow = by_key.get(number if number & FLOW_FROM_EGRESS else base | number)
            if flow is not None:
                self._on_notice(flow, shard, burst, at)
            elif kind == GUEST_ANSWERED:
                # The worker that dialled has died. Its successor knows nothing of the dial.
                self._tcp_out[shard].push(FlowNotice.pack(ABORT, number))
            elif self.asks:
                self._withdraw(base | number, kind)
        return len(burst) // RECORD_BYTES

    def _on_notice(self, flow: Flow, shard: int, burst: memoryview, at: int) -> None:
        kind = burst[at]
        if kind == WINDOW:
            flow.on_window(Window.unpack(burst, at).window)
        elif kind == SHUTDOWN:
            flow.finish_writing()
        elif kind == CLOSED:
            flow.guest_closed()
        elif kind == ABORT:
            self._report_unreachable(flow.number, REFUSED)
            flow.guest_aborted()
        elif kind == GUEST_ANSWERED:
            answer = GuestAnswered.unpack(burst, at)
            flow.guest_answered(shard, self._shares.of(answer.guest), answer.key, answer.mss)
        elif kind == ORPHANED:
            flow.orphaned()
        elif kind == GUEST_MOVED:
            flow.guest_moved(self._shares.of(GuestMoved.unpack(burst, at).guest))
        elif kind == DIAL_FAILED and (
            DialFailed.unpack(burst, at).final
            # Not final: this port of the gateway is in use towards the guest. Demux tries the next one.
            or not self._dials.try_next(flow.number)
        ):
            self._report_unreachable(flow.number, NO_ROOM)
            flow.close(reset=False)

    def _withdraw(self, key: int, kind: int) -> None:
        """Tcp reports something about a connection that waits for an answer: it is over."""
        found = self.asks.withdraw(key)
        if found is not None and kind != ABORT:
            self.flows.notify_connect_failed(*found, REFUSED_ERRNO)

    def _ask(self, shard: int, request: Connect, rule: str) -> bool:
        """Let a connection wait until somebody decides. False if too many wait."""
        ends = Ends.of(request.key)
        ask = self.asks.ask(ends, "tcp", request.guest, request.link, rule, self.flows.now)
        return ask is not None and self.asks.wait(ask, shard << 32 | request.flow, (shard, request))

    def _on_answer(self, waiting: _Asked, answer: Answer) -> None:
        """Somebody has decided about a connection that waits."""
        shard, request = waiting
        # The policy may be another one by now.
        if answer.allow and self._policy.may_ask(Ends.of(request.key), "tcp"):
            self._connect(shard, request, answer)
        else:
            self._refuse(shard, request, answer.rule)

    def _refuse(self, shard: int, request: Connect, rule: str) -> None:
        ends = Ends.of(request.key)
        self._policy.refuse(ends, "tcp", rule)
        self._reports.refused("tcp", request.guest, ends, rule=rule, error=REFUSED_ERRNO)
        self.flows.notify_connect_failed(shard, request, REFUSED_ERRNO, refused=True)

    def _open(self, shard: int, request: Connect) -> None:
        """Open a connection, and charge its guest: a SYN costs more here than in all other workers."""
        work = self._work
        began = work.begin() if work.on else 0
        self._connect(shard, request)
        if began:
            work.charge_link(request.link, began)

    def _connect(self, shard: int, request: Connect, answer: Answer | None = None) -> None:
        """Open a connection that a guest asks for. answer: that of somebody who has approved it."""
        sock, error, verdict, refused, meter, connected = self._opener.open(
            request, approved=answer is not None
        )
        if sock is None and not error and verdict is not None:
            if not self._ask(shard, request, verdict.rule):
                self._refuse(shard, request, verdict.rule)
            return
        if sock is None:
            if verdict is not None and verdict.via is not None:
                failure = ways.broken(ways.NO_CONNECTION, error)
                self.flows.report_proxy_failure(request, Way.of(verdict), "", failure)
            make_way = self._bound.way(request.guest) if error in NO_DESCRIPTOR else MAKE_WAY_NO
            self.flows.notify_connect_failed(shard, request, error, make_way, refused)
            return
        share = self._shares.of(request.guest)
        if answer is not None:
            verdict = Verdict(True, answer.rule, hold=bool(answer.name))
        stream = HostStream(sock, self._slots)
        way = Way.of(verdict)
        flow = Flow(
            self.flows,
            request.flow,
            shard,
            stream,
            share,
            request,
            way=way,
            approval=answer,
            meter=meter,
            connected=connected,
        )
        if verdict is not None and not way.reads_name:
            self.flows.report_decision(flow, verdict)
        if connected:
            flow.connected()
            # The guest waits for CONNECTED, not for tune().
            self._worker.publish()
        if flow.state != DEAD:
            host_tcp.tune(sock)

    # --- connections of host clients ----------------------------------------------------------

    def accepted(self, sock: socket.socket, addr: Addr, port: int, head: bytes) -> None:
        """Dial a guest for a connection that listen accepted. head: what the guest gets first."""
        host_tcp.tune(sock)
        number = self._numbers.next()
        # The guest's share and the shard are known only when the guest has answered.
        Flow(self.flows, number, 0, HostStream(sock, self._slots, head), self._shares.of(0))
        self._worker.counts[_ACCEPTED] += 1
        self._dials.add(number, addr, port, host_tcp.client_of(sock))

    def dial_failed(self, number: int) -> None:
        """Demux found no guest with the dialled address: the host client sees its connection end."""
        self._end_dial(number, NO_GUEST)

    def _end_dial(self, number: int, reason: str) -> None:
        flow = self.flows.by_key.get(number)
        if flow is not None:
            self._report_unreachable(number, reason)
            flow.close(reset=False)

    def _report_unreachable(self, number: int, reason: str) -> None:
        """Report that a dial has failed. Does nothing if the guest has answered, or has opened the flow."""
        events = self._worker.events
        target = self._dials.target(number)
        if target is not None and events.wants("forward-unreachable"):
            addr, port = target
            events.report("forward-unreachable", address=ip.text(addr), port=port, reason=reason)

    def _give_up_dialling(self, now: float) -> None:
        for number in self._dials.overdue(now):
            self._give_up_dial(number, TIMEOUT)

    def _give_up_dial(self, number: int, reason: str) -> None:
        # The guest has not answered, so the shard is not known. Shards without this number ignore ABORT.
        for ring in self._tcp_out:
            ring.push(FlowNotice.pack(ABORT, number))
        self._end_dial(number, reason)

    # --- slots, the end -----------------------------------------------------------------------

    def on_released(self, source: str, tags: list[int]) -> None:
        """A worker returned references; each tag is the number of the flow that used one."""
        by_key = self.flows.by_key
        base = int(source[3:]) << 32 if source.startswith("tcp") else 0
        for number in tags:
            flow = by_key.get(number if number & FLOW_FROM_EGRESS else base | number)
            if flow is not None:
                flow.returned()

    def held(self) -> dict[str, int]:
        """How many of each thing there is for guests."""
        flows = self.flows
        return {
            "flows": len(flows),
            "dials": len(self._dials),
            "needs_flush": len(flows.needs_flush),
            "stalled": len(flows.stalled),
            "young_flows": len(flows.young),
            "ready": len(flows.turns.ready),
            "waiting_for_slots": flows.turns.waiting_count,
            "held_flows": len(flows.holds),
            "tunnels": len(flows.tunnels),
            "silent_flows": len(flows.silent),
            "closing": len(self._closing),
            "closing_bytes": self._closing.charged_bytes,
            "shares": len(self._shares),
        }

    def slots(self) -> dict[int, int]:
        """How many slots each guest holds, by its number."""
        return self._shares.sums()

    def slots_held(self) -> list[int]:
        """The slots to which connections and shares hold references, one entry for each reference."""
        found = self._shares.slots_held()
        for flow in self.flows.by_key.values():
            found += flow.stream.slots_held()
        return found

    def on_tcp_lost(self, shard: int) -> None:
        """A tcp worker has died, with these connections: reset their host sockets.

        Bytes of a connection that the guest has closed still go to the host. The host client of a dial sees
        its connection end, since nobody knows whether the dial had reached that worker.
        """
        self.asks.withdraw_shard(shard)
        for flow in list(self.flows.by_key.values()):
            if flow.state == DIALLING:
                self._give_up_dial(flow.number, NO_GUEST)
            elif flow.shard == shard:
                flow.tcp_lost(self._tcp_out[shard])

    def on_demux_lost(self) -> None:
        """Demux has died, perhaps with dials that it had not passed on. Its successor is asked for all.

        The one tcp worker takes no dial twice. Of several, another one might: then both would send bytes for
        the same number. So the host clients see their connections end.
        """
        if len(self._tcp_out) == 1:
            self._dials.ask_again()
            return
        for flow in [flow for flow in self.flows.by_key.values() if flow.state == DIALLING]:
            self._give_up_dial(flow.number, NO_GUEST)

    def release_idle(self) -> None:
        """Give back slots that are kept only to be filled further."""
        self._shares.release_idle()

    def close(self) -> None:
        """Reset all connections, and give every slot back."""
        for flow in list(self.flows.by_key.values()):
            flow.close(reset=True)
        self._shares.retire()
