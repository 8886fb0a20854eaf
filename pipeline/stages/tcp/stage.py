"""The tcp worker: the gateway's side of the guests' TCP connections.

There may be several tcp workers (shards). A hash of the flow (RSS) decides which one gets a connection.
Segments of guests come from ingress or demux as runs. Bytes of hosts come from egress as slots.

The state machine is pipeline.engines.tcp. It sees neither rings nor payload bytes. This stage turns records
into calls of the engine, and the engine's output into records for ingress. pipeline.stages.tcp.connections
keeps the connections.

Bytes of the host stay in their slots until the guest has acknowledged them, and until ingress has read the
last record that names them (pipeline.stages.tcp.releases).
"""

from time import monotonic
from typing import Final

from pipeline.config.model import Config
from pipeline.counter_block import add
from pipeline.counters import INDEX
from pipeline.engines import refusal
from pipeline.engines.tcp import actions, ending
from pipeline.engines.tcp.connection import Connection, opens, reset_for
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import diff
from pipeline.engines.tcp.state import SYN_RECEIVED, TIME_WAIT
from pipeline.engines.tcp.time_wait import TimeWait
from pipeline.ipc import fleet_messages, flow_messages, healing_messages, message_table, messages
from pipeline.records import kinds
from pipeline.records.dials import DialRouted
from pipeline.records.flows import Ends, FlowKey, flow_of
from pipeline.records.guests import LinkNotice, Shared
from pipeline.records.icmp import GuestError
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.streams import (
    MAKE_WAY_ANY,
    MAKE_WAY_NO,
    ConnectFailed,
    Decided,
    Shutdown,
    SocketsUsedUp,
    Stray,
    Taken,
    ToGuest,
)
from pipeline.records.tcp import TcpRange
from pipeline.stages.bad_frames import BadFrames
from pipeline.stages.holdings import Holdings, count
from pipeline.stages.losses import Losses
from pipeline.stages.tcp import icmp, records, rows, strays
from pipeline.stages.tcp.connections import Connections
from pipeline.stages.tcp.flow import FROM_DEMUX, FROM_INGRESS, Flow
from pipeline.stages.tcp.host_end import flow_id
from pipeline.stages.work_meter import WorkMeter
from pipeline.stages.worker import Worker
from pipeline.topology import DEMUX, EGRESS, INGRESS
from pipeline.wire import ip
from pipeline.wire import tcp as wire_tcp
from pipeline.wire.errors import WireError

RELEASE_POLL_S: Final = 0.005
"""Seconds until the stage checks again whether ingress has read records, so that slots can be freed."""
BURSTS_A_STEP: Final = 8
"""The most bursts of guests' segments that one step takes from one ring. Then records of egress follow."""
MAX_RANGES_A_TURN: Final = 16
"""The most ranges that one connection sends before other connections send."""

_SEGMENTS: Final = INDEX["tcp_segments_received"]
_SENT: Final = INDEX["tcp_segments_sent"]
_RESETS: Final = INDEX["tcp_reset_sent_no_flow"]
_MOVED: Final = INDEX["tcp_flow_reset_guest_moved"]
_NO_MEMORY: Final = INDEX["tcp_segment_dropped_no_memory"]
_OUT_OF_ORDER_LOST: Final = INDEX["tcp_flow_lost_out_of_order"]


_ABORTS: Final[dict[int, int]] = {
    kinds.ABORT: ending.HOST_RESET,
    kinds.EVICTED: ending.LIMIT,
    kinds.FORBIDDEN: ending.FORBIDDEN,
    kinds.PROXY_FAILED: ending.PROXY_FAILED,
}
"""Records that end a connection at once, and why it ends."""


class TcpStage:
    """One shard: its rings and its connections."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        self.slots = ports.arena.slots
        # demux comes first: DIAL_ROUTED must be read before the guest's answer to it, which ingress sends.
        self.guests_in = [ports.rings_in["demux"], ports.rings_in["ingress"]]
        self.ingress_out = ports.rings_out["ingress"]
        self.egress_in = [ports.rings_in[f"egress{i}"] for i in range(config.workers.egress_workers)]
        self.bad_frames = BadFrames(self.ingress_out)
        self.meter = WorkMeter(self.ingress_out)
        self.connections = Connections(worker, config)
        self.now = 0.0

    # --- the step ---------------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Rings -> engine, timers -> engine, engine -> rings. Returns the number of records."""
        self.now = now
        connections = self.connections
        work = 0
        # Bounded, because a guest that never pauses must not block the records of hosts.
        for ring in self.guests_in:
            reporter = FROM_DEMUX if ring is self.guests_in[0] else FROM_INGRESS
            for _ in range(BURSTS_A_STEP):
                if not (burst := ring.peek()):
                    break
                began = self.meter.begin() if self.meter.on else 0
                work += self._on_guest_burst(burst, reporter, now)
                if began:
                    self.meter.charge(burst, began)
                ring.release(len(burst) // RECORD_BYTES)
        for egress, ring in enumerate(self.egress_in):
            while burst := ring.peek():
                work += self._on_host_burst(egress, burst, now)
                ring.release(len(burst) // RECORD_BYTES)
        if connections.deadline() <= now:
            work += connections.expire(now)
        if connections.needs_flush:
            work += self._flush(now)
        if connections.releases:
            connections.releases.free_completed()
        return work

    def deadline(self) -> float:
        """The time at which step() must be called without an event; 0 if it has work left now."""
        connections = self.connections
        needs_flush = connections.needs_flush
        if needs_flush and self.ingress_out.has_room():
            return 0.0
        for ring in self.guests_in:
            if ring.pending():
                return 0.0
        if needs_flush or connections.releases:
            # No worker waits for these, and ingress does not ring when it has read a record.
            return min(self.now + RELEASE_POLL_S, connections.deadline())
        return connections.deadline()

    # --- from guests ------------------------------------------------------------------------

    def _on_guest_burst(self, burst: memoryview, reporter: int, now: float) -> int:
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == kinds.TCP_RANGE:
                self._on_range(TcpRange.unpack(burst, at), now)
            elif kind == kinds.DIAL_ROUTED:
                self.connections.dial(DialRouted.unpack(burst, at), now)
            elif kind == kinds.LINK_UP:
                up = LinkNotice.unpack(burst, at)
                self.connections.guests.link_up(up.link, up.guest, reporter)
            elif kind == kinds.LINK_DOWN:
                link = LinkNotice.unpack(burst, at).link
                self.connections.link_down(link, reporter, now)
                self.bad_frames.forget(link)
            elif kind == kinds.SHARED:
                self.meter.switch(Shared.unpack(burst, at).shared)
            else:
                error = GuestError.unpack(burst, at)
                flow = self.connections.by_key.get(error.key)
                if icmp.on_error(flow, self.counts, error, now) and flow is not None:
                    self.connections.flush_later(flow)
        return len(burst) // RECORD_BYTES

    def _on_range(self, run: TcpRange, now: float) -> None:
        """Segments of a guest arrived. The run itself is the engine's handle for their payload."""
        add(self.counts, _SEGMENTS, run.segments)
        if run.has_other_options:
            try:
                segment = records.segment_with_options(run, self.slots[run.slot])
            except WireError as error:
                self._drop(run, error.reason, 1)
                self.worker.free(run.slot)
                return
        else:
            segment = records.segment(run)
        if not run.length:
            self.worker.free(run.slot)
        connections = self.connections
        flow = connections.by_key.get(run.key)
        if flow is not None and run.flags & wire_tcp.SYN and flow.conn.accepts_reuse(segment):
            connections.remove(flow, now)
            flow = None
        if connections.apart and flow is not None and connections.is_strangers(flow, run.link, now):
            if run.length:
                self.worker.free(run.slot)
            return
        if flow is not None:
            self._on_segment(flow, run, segment, now)
        elif (flow := self._on_unknown(run, segment, now)) is None:
            if run.length:
                self.worker.free(run.slot)
            self.bad_frames.note(run.link, run.segments)
            return
        connections.flush_later(flow)

    def _on_segment(self, flow: Flow, run: TcpRange, segment: Segment, now: float) -> None:
        """A segment of an existing connection arrived."""
        connections = self.connections
        conn, guest = flow.conn, flow.guest
        length = run.length
        if guest.pressed and length and (fits := connections.memory.fits(flow, run.seq, length)) < length:
            segment = self._cut(flow, run, segment, fits)
        elif flow.link.gone:
            connections.come_back(Ends.of(run.key).guest_addr, run.link)
        flow.received(run.segments)
        reason = conn.on_segment(segment, now)
        if reason is not None:
            self._drop(run, reason, run.segments)
        if isinstance(conn, TimeWait):
            if segment.buf is not None:
                self.worker.free(run.slot)
            connections.time_waits.update(flow, conn.ends_at)
            return
        flow.host.notify_window(conn.snd_wnd)
        if conn.reassembly.ranges or connections.out_of_order.holds(flow):
            for loser in connections.out_of_order.note(flow):
                self.counts[_OUT_OF_ORDER_LOST] += 1
                connections.flush_later(loser)

    def _on_unknown(self, run: TcpRange, segment: Segment, now: float) -> Flow | None:
        """A segment without a connection arrived. A SYN begins one. Anything else is answered with a RST."""
        if opens(segment.flags):
            return self.connections.on_syn(run.key, segment, run.link, now)
        answer = reset_for(segment)
        # While the ring is full no RST is sent, so a guest that does not read cannot fill our memory.
        if answer is not None and self.ingress_out.has_room():
            self.counts[_RESETS] += 1
            self._push_out(run.key, answer)
        return None

    def _cut(self, flow: Flow, run: TcpRange, segment: Segment, length: int) -> Segment:
        """The segment with only the first ``length`` bytes of its data, because memory is short."""
        self.counts[_NO_MEMORY] += run.segments
        out_of_order = self.connections.out_of_order
        if out_of_order.holds(flow) and diff(run.seq + length, flow.conn.rcv_nxt) <= 0:
            # The hole will not be filled. The data after it would keep their slots until the host reads.
            self.counts[_OUT_OF_ORDER_LOST] += 1
            out_of_order.lose(flow)
        if not length:
            self.worker.free(run.slot)
        return segment.cut(length, run if length else None)

    def _drop(self, run: TcpRange, reason: str, count: int) -> None:
        """Count dropped segments of a run, and note its frames as bad frames of the guest."""
        self.counts[INDEX[reason]] += count
        self.bad_frames.note(run.link, run.segments)

    # --- from egress ------------------------------------------------------------------------

    def _on_host_burst(self, egress: int, burst: memoryview, now: float) -> int:
        connections = self.connections
        for at in range(0, len(burst), RECORD_BYTES):
            flow = connections.by_id.get(flow_id(egress, flow_of(burst, at)))
            if flow is None:
                self._on_other_record(egress, burst, at, now)
            elif self._on_flow_record(flow, burst, at, now):
                connections.flush_later(flow)
        return len(burst) // RECORD_BYTES

    def _on_other_record(self, egress: int, burst: memoryview, at: int, now: float) -> None:
        """Handle a record that is not about a flow, or about a flow that tcp has already forgotten."""
        kind = burst[at]
        if kind == kinds.TO_GUEST:
            # Egress sent these bytes before it knew that the flow had ended.
            piece = ToGuest.unpack(burst, at)
            self.worker.free(piece.slot, piece.flow)
        elif kind == kinds.SOCKETS_USED_UP:
            need = SocketsUsedUp.unpack(burst, at)
            self.connections.make_way(egress, need.guest, need.make_way, now)
        elif kind == kinds.STRAY:
            self._provoke(Stray.unpack(burst, at).key, now)

    def _provoke(self, key: FlowKey, now: float) -> None:
        """A guest has a connection that nobody else has. It may wait for ever for bytes of the host.

        Only a reset with the sequence number that the guest expects would be believed (RFC 5961), and nobody
        knows that number any more. So this sends an acknowledgment outside of the window. The guest answers
        it with one that tells the number, and that is answered with a reset.
        """
        if key not in self.connections.by_key and self.ingress_out.has_room():
            seq = self.connections.first_sequence_number(key, now)
            self._push_out(key, actions.Outgoing(seq, wire_tcp.ACK, (0, 0, 0, 0, False, (), 0)))

    def _on_flow_record(self, flow: Flow, burst: memoryview, at: int, now: float) -> bool:
        """Handle a record about a connection. Returns whether the connection needs a flush."""
        kind = burst[at]
        conn = flow.conn
        connections = self.connections
        if kind == kinds.TAKEN:
            before = conn.rcv_untaken
            conn.on_taken(Taken.unpack(burst, at).count, now)
            connections.memory.taken(flow, before - conn.rcv_untaken, now)
        elif isinstance(conn, TimeWait):
            if kind in _ABORTS:
                conn.finish()
            else:
                self._on_other_record(flow.host.egress, burst, at, now)
        elif kind == kinds.TO_GUEST:
            piece = ToGuest.unpack(burst, at)
            conn.on_host_data(piece.slot, piece.off, piece.length, now)
        elif kind == kinds.SHUTDOWN:
            if Shutdown.unpack(burst, at).both:
                conn.on_host_closed(now)
            else:
                conn.on_host_eof(now)
        elif kind == kinds.CONNECTED:
            conn.on_connected(now)
            flow.connected(now)
        elif kind == kinds.CONNECT_FAILED:
            return self._on_connect_failed(flow, conn, ConnectFailed.unpack(burst, at), now)
        elif kind in _ABORTS:
            self._on_abort(flow, conn, _ABORTS[kind], now)
        elif kind == kinds.DECIDED:
            connections.reports.decided(flow, Decided.unpack(burst, at))
            return False
        return True

    def _on_connect_failed(self, flow: Flow, conn: Connection, failure: ConnectFailed, now: float) -> bool:
        host, guest = flow.host, flow.guest.number
        way = failure.make_way
        if way != MAKE_WAY_NO and conn.state == SYN_RECEIVED:
            # Egress had no socket for this connection. If another connection has ended, it tries again.
            # If none can end here, another guest may lose an established one: egress decides that.
            ended = self.connections.make_way(host.egress, guest, way, now, flow)
            if ended or (way == MAKE_WAY_ANY and not host.insists):
                mss, irs = conn.snd_mss, conn.irs
                host.connect(flow.key, flow.link.number, guest, mss, irs, insists=not ended)
                return False
        host.forget()
        flow.connect_failed(failure.error, failure.refused)
        conn.on_connect_failed(now, reset=refusal.answer_to_syn(failure.error) == refusal.RESET)
        return True

    def _on_abort(self, flow: Flow, conn: Connection, end: int, now: float) -> None:
        flow.host.forget()
        if conn.wants_transmit and (room := self.ingress_out.room()) > 0:
            # Send what the host sent before its reset, as far as the guest's window allows now.
            self._transmit(flow, conn, room, now)
        # Egress resets a connection that it dialled when it has waited enough for the guest.
        waited = conn.is_active and not flow.established
        conn.on_host_reset(now, ending.TIMED_OUT if waited else end)

    # --- to ingress -------------------------------------------------------------------------

    def _flush(self, now: float) -> int:
        """Carry out actions, and let connections send while the ring to ingress has room.

        Returns the number of ranges sent.
        """
        connections = self.connections
        room = self.ingress_out.room()
        sent = 0
        for flow in connections.take_needs_flush():
            conn = flow.conn
            gone = connections.act(flow, now)
            if conn.wants_transmit:
                if room > 0:
                    count = self._transmit(flow, conn, room, now)
                    room -= count
                    sent += count
                    gone = connections.act(flow, now) or gone
                if conn.wants_transmit and not gone:
                    connections.flush_later(flow)
            if gone:
                connections.remove(flow, now)
            elif conn.state != TIME_WAIT:
                flow.arm(connections.timers)
            elif not conn.wants_transmit:
                connections.rest(flow)
        return sent

    def _transmit(self, flow: Flow, conn: Connection | TimeWait, room: int, now: float) -> int:
        """Send at most ``room`` ranges of a connection. Returns how many were sent."""
        outs = conn.transmit(now, min(room, MAX_RANGES_A_TURN))
        segments = 0
        for out in outs:
            segments += 1 if out.length <= out.mss else (out.length + out.mss - 1) // out.mss
            self._push_out(flow.key, out)
        flow.sent(segments)
        return len(outs)

    def _push_out(self, key: FlowKey, out: actions.Outgoing) -> None:
        add(self.counts, _SENT, 1)
        self.ingress_out.push(records.outgoing(key, out))

    # --- for the worker ---------------------------------------------------------------------

    def on_control(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Answer ``guests``, ``flow_ids``, ``flows``, ``end_flow``, ``end_strays`` and ``stations_away``."""
        connections = self.connections
        match message_table.request_of(message):
            case messages.Guests():
                return messages.GuestsAnswer.of(connections.guests.sums()).encode()
            case flow_messages.FlowIds():
                return flow_messages.FlowIdsAnswer(list(connections.by_id)).encode()
            case flow_messages.Flows() as ask:
                return flow_messages.FlowsAnswer(rows.of_numbers(connections.by_id, ask.numbers)).encode()
            case fleet_messages.StationsAway() as ask:
                addrs = {ip.of_packed(addr) for addr in ask.addrs}
                self.counts[_MOVED] += connections.end_of_addresses(addrs, monotonic())
                return {}
            case flow_messages.EndFlow() as ask:
                return flow_messages.EndFlowAnswer(connections.end(ask.number, monotonic())).encode()
            case healing_messages.EndStrays() as ask:
                for key in strays.keys_of(ask):
                    self._provoke(key, monotonic())
                return {}
        return {"error": f"tcp knows no request {message.get('op')!r}"}

    def hand_over(self) -> None:
        """Report all connections: another supervisor's tcp workers know nothing of them."""
        strays.report(self.worker, self.connections.by_key)

    def reload(self, config: Config) -> None:
        """See Stage.reload: the limits."""
        self.connections.reload(config)

    def on_released(self, source: str, tags: list[int]) -> None:
        """A tcp worker owns no slots."""

    def slots_held(self) -> Holdings:
        """See Stage.slots_held."""
        found: Holdings = {}
        count(found, self.connections.slots_held())
        return found

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """See Stage.on_workers_lost: reset connections whose host sockets are lost. Links may be down."""
        connections = self.connections
        for shard in losses.shards(EGRESS):
            connections.on_egress_lost(shard, now)
        reporters = (FROM_INGRESS if losses.has(INGRESS) else 0) | (FROM_DEMUX if losses.has(DEMUX) else 0)
        if not reporters:
            return
        for link in connections.guests.link_numbers():
            connections.link_down(link, reporters, now, stays=link in losses.links)
            if link not in losses.links:
                self.bad_frames.forget(link)
        if losses.has(INGRESS):
            self.meter.switch(False)

    def held(self) -> dict[str, int]:
        """See Stage.held."""
        return {**self.connections.held(), "links_with_bad_frames": len(self.bad_frames)}

    def close(self) -> None:
        """Do nothing: the shared memory ends with the daemon."""
