"""Writes to the host sockets of connections, and keeps the bytes that a host does not take.

All guests need slots. So bytes that a host leaves in slots for SPILL_AFTER_S are copied elsewhere. A
connection that the guest has closed waits for its host as long as closing.py allows.
"""

from typing import Final

from pipeline.counter_block import add
from pipeline.counters import INDEX
from pipeline.engines.proxy.handshake import NO_ANSWER
from pipeline.host import tcp as host_tcp
from pipeline.records.streams import Taken
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.tcp.flow import Flow
from pipeline.stages.egress.tcp.reads import HostReads
from pipeline.stages.egress.tcp.states import CLOSING, HELD, OPEN, UNDER_WAY
from pipeline.stages.egress.tcp.table import FlowTable

SPILL_AFTER_S: Final = 0.05
"""How long bytes for a host that does not read may stay in slots."""
YOUNG_S: Final = 10.0
"""Age of a connection when it gets keep-alive probes. Most end earlier, and save the system call."""
LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks for connections of that age. A worker breathes at least that often."""
_NEVER: Final = float("inf")

_TO_HOST: Final = INDEX["egress_bytes_to_host"]
_SPILLED: Final = INDEX["egress_bytes_spilled"]
_NO_MEMORY: Final = INDEX["egress_connection_reset_no_memory"]
_CLOSING_FULL: Final = INDEX["egress_connection_reset_closing_full"]
_CLOSING_STUCK: Final = INDEX["egress_connection_reset_closing_stuck"]


class HostWrites:
    """Writes to host sockets, and watches those that take nothing."""

    def __init__(
        self, context: EgressContext, flows: FlowTable[Flow], reads: HostReads, max_flow_refs: int
    ) -> None:
        """max_flow_refs: references to slots that one flow may keep for its host."""
        self._free = context.worker.free
        self._counts = context.counts
        self._flows = flows
        self._reads = reads
        self._max_flow_refs = max_flow_refs
        self._look_at = 0.0

    def set_max_flow_refs(self, max_flow_refs: int) -> None:
        """Change how many references one flow may keep."""
        self._max_flow_refs = max_flow_refs

    def write(self, now: float) -> None:
        """Write what sockets take. Spill or reset connections whose sockets took nothing for too long."""
        flows = self._flows
        if flows.closing.deadline() <= now:
            self._end_closing(now)
        if flows.holds.deadline() <= now:
            self._end_holds(now)
        if flows.tunnels or flows.silent:
            self._end_waits(now)
        if flows.needs_flush:
            flows.looks.begin()
            self._flush(now)
        if flows.stalled:
            self._spill_stalled(now)
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        young = self._flows.young
        while young:
            flow, since = next(iter(young.items()))
            if since + YOUNG_S > now:
                break
            del young[flow]
            host_tcp.keep_alive(flow.stream.sock)

    def deadline(self) -> float:
        """When write() is due even without an event."""
        if self._flows.needs_flush:
            return 0.0
        stalled = self._flows.stalled
        spill_at = next(iter(stalled.values())) + SPILL_AFTER_S if stalled else _NEVER
        flows = self._flows
        waits = (
            min(flows.tunnels.deadline(), flows.silent.deadline())
            if flows.tunnels or flows.silent
            else _NEVER
        )
        return min(spill_at, flows.closing.deadline(), flows.holds.deadline(), waits)

    def _flush(self, now: float) -> None:
        needs_flush = self._flows.needs_flush
        again: list[Flow] = []
        for flow in needs_flush:
            if flow.state == OPEN or flow.state == CLOSING or (flow.state == HELD and flow.examine()):
                if flow.requests is None:
                    self._flush_one(flow, now)
                elif flow.judge_requests():
                    if flow.requests.more:
                        again.append(flow)
                    if not (flow.requests.more and flow.stream.finishes):
                        # Otherwise the FIN might go before what waits for its turn.
                        self._flush_one(flow, now)
            elif flow.state in UNDER_WAY and flow.stream.queued_refs:
                self._flows.stalled.setdefault(flow, now)
        needs_flush.clear()
        for flow in again:
            needs_flush[flow] = None

    def _flush_one(self, flow: Flow, now: float) -> None:
        flows = self._flows
        stream = flow.stream
        try:
            sent = stream.flush(self._free)
        except OSError:
            if flow.state == OPEN:
                self._reads.read_remaining(flow)
            flow.broken()
            return
        if sent:
            add(self._counts, _TO_HOST, sent)
            if flow.meter is not None:
                flow.meter.carried(sent, 0)
            flows.tcp_out[flow.shard].push(Taken.pack(flow.number, sent))
        if flow.state == CLOSING and stream.write_finished:
            flow.close(reset=False)
        elif stream.queued_bytes:
            flow.watch.await_room()
            if stream.queued_refs > self._max_flow_refs and not self._spill(flow):
                return
            flows.stalled.setdefault(flow, now)
            if flow.state == CLOSING:
                self._reset(flows.closing.wait(flow, stream.queued_bytes, sent, now), _CLOSING_FULL)
        elif flows.stalled:
            flows.stalled.pop(flow, None)

    def _spill_stalled(self, now: float) -> None:
        stalled = self._flows.stalled
        while stalled:
            flow, since = next(iter(stalled.items()))
            if since + SPILL_AFTER_S > now:
                break
            del stalled[flow]
            self._spill(flow)

    def _spill(self, flow: Flow) -> bool:
        """Copy the bytes of a flow out of their slots. False if no memory is left: that costs this flow."""
        try:
            self._counts[_SPILLED] += flow.stream.spill(self._free)
        except MemoryError:
            self._counts[_NO_MEMORY] += 1
            flow.broken()
            return False
        return True

    def _end_holds(self, now: float) -> None:
        """Decide on connections whose first bytes have stated no name for too long."""
        flows = self._flows
        for flow in flows.holds.due(now):
            if flow.state != HELD:
                if flow.judge_requests(last=True):
                    flows.needs_flush[flow] = None
            elif flow.examine(last=True):
                flows.needs_flush[flow] = None

    def _end_waits(self, now: float) -> None:
        """Give up tunnels that have no end, and open those whose guests state no name."""
        flows = self._flows
        for flow in flows.tunnels.due(now):
            flow.proxy_failed(NO_ANSWER)
        for flow in flows.silent.due(now):
            flow.examine(last=True)

    def _end_closing(self, now: float) -> None:
        """Reset closing connections that have waited too long for their hosts, after a last try to write.

        The system reports a socket as writable only when a good part of its buffer is free. So a host that
        reads slowly may have taken some bytes without an event.
        """
        flows = self._flows
        for flow in flows.closing.due(now):
            flow.stream.on_writable()
            flows.needs_flush[flow] = None
        self._flush(now)
        self._reset(flows.closing.due(now), _CLOSING_STUCK)

    def _reset(self, flows: list[Flow], counter: int) -> None:
        for flow in flows:
            self._counts[counter] += 1
            flow.close(reset=True)
