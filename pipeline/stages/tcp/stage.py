"""One shard of the TCP engine: connections of the guests whose flows RSS sent here (L4).

Segments come from ingress or demux as ranges, host bytes come from egress as slots; the state machine
is pipeline.engines.tcp, which sees neither rings nor bytes. This stage looks flows up, turns
records into calls and actions into records, and keeps the timers.

Host bytes stay in their slots until the guest has acknowledged them. Such a slot may go home only
when ingress has also read the last copy of it that is under way, which is certain once ingress
has released every record pushed before: the ring's consumer index is the completion.
"""

import secrets
from collections import deque
from typing import Final, cast

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines import refusal
from pipeline.engines.tcp import actions, isn
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection, opens, reset_for
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import diff
from pipeline.engines.tcp.state import SYN_RECEIVED, TIME_WAIT
from pipeline.engines.timing_wheel import TimingWheel
from pipeline.records import kinds
from pipeline.records.dials import DialFailed, DialRouted
from pipeline.records.flows import Ends, FlowKey, FlowNotice, flow_of
from pipeline.records.guests import LinkNotice
from pipeline.records.icmp import GuestError
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.run import Run
from pipeline.records.streams import (
    MAKE_WAY_NO,
    Connect,
    ConnectFailed,
    GuestAnswered,
    Shutdown,
    SocketsUsedUp,
    Taken,
    ToGuest,
    ToHost,
    Window,
)
from pipeline.records.tcp import TcpRange
from pipeline.stages.bad_frames import BadFrames
from pipeline.stages.tcp import icmp as tcp_icmp
from pipeline.stages.tcp import limits, records
from pipeline.stages.tcp.flow import Flow, egress_of, flow_id
from pipeline.stages.tcp.orphans import Orphans
from pipeline.stages.tcp.room import Room
from pipeline.stages.worker import Worker
from pipeline.topology import MAX_REFS
from pipeline.wire import tcp as wire_tcp
from pipeline.wire.errors import WireError

RELEASE_POLL_S: Final = 0.005
"""How soon to look again whether ingress has read what waits to go home; nobody waits for it."""
BURSTS_A_STEP: Final = 8
"""Bursts of guests' segments from a ring before the host side gets its turn."""
MAX_RANGES_A_TURN: Final = 16
"""Ranges one connection may send before the others get their turn."""

_SEGMENTS: Final = INDEX["tcp_segments_received"]
_SENT: Final = INDEX["tcp_segments_sent"]
_FLOWS: Final = INDEX["tcp_flows"]
_OPENED: Final = INDEX["tcp_flow_opened"]
_RESETS: Final = INDEX["tcp_reset_sent_no_flow"]
_EVICTED: Final = INDEX["tcp_flow_evicted_time_wait"]
_HALF_OPEN_EVICTED: Final = INDEX["tcp_flow_evicted_half_open"]
_GUEST_GONE: Final = INDEX["tcp_flow_ended_guest_gone"]
_DIAL_REFUSED: Final = INDEX["tcp_dial_failed_too_many_flows"]
_NO_MEMORY: Final = INDEX["tcp_segment_dropped_no_memory"]
_OUT_OF_ORDER_LOST: Final = INDEX["tcp_flow_lost_out_of_order"]


class TcpStage:
    """The connections of one shard."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        self.slots = ports.arena.slots
        # In this order: what demux dials before what its guest answers.
        self.guests_in = [ports.rings_in["demux"], ports.rings_in["ingress"]]
        self.ingress_out = ports.rings_out["ingress"]
        self.egress_in = [ports.rings_in[f"egress{i}"] for i in range(config.egress_workers)]
        self.egress_out = [ports.rings_out[f"egress{i}"] for i in range(config.egress_workers)]
        self.config = TcpConfig(
            mtu=config.mtu,
            max_reassembly_bytes=config.max_reassembly_bytes,
            max_reassembly_ranges=config.max_reassembly_ranges,
        )
        self.guests = limits.Guests(config)
        self.out_of_order: limits.OutOfOrder[Flow] = limits.OutOfOrder(
            min(config.max_out_of_order_slots, max(config.slots // 4 // config.tcp_workers, 4)),
            MAX_REFS // 2 // config.tcp_workers,
        )
        self.bad_frames = BadFrames(self.ingress_out)
        self.orphans: Orphans[Flow] = Orphans()
        self.room: Room[Flow] = Room(self.guests, self.orphans)
        self.isn_key = secrets.token_bytes(16)
        self.flows: dict[FlowKey, Flow] = {}
        self.by_number: dict[int, Flow] = {}
        self.dirty: dict[Flow, None] = {}
        self.timers: TimingWheel[Flow] = TimingWheel()
        self.releasing: deque[tuple[int, int, int]] = deque()
        self.number = 0
        self.now = 0.0

    # --- the step ---------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Rings -> engine, timers -> engine, engine -> rings. Returns the number of records."""
        self.now = now
        work = 0
        # Bounded: a guest that never pauses must not keep the others' bytes from their turn.
        for ring in self.guests_in:
            for _ in range(BURSTS_A_STEP):
                if not (burst := ring.peek()):
                    break
                work += self._on_guest_burst(burst, now)
                ring.release(len(burst) // RECORD_BYTES)
        for egress, ring in enumerate(self.egress_in):
            while burst := ring.peek():
                work += self._on_host_burst(egress, burst, now)
                ring.release(len(burst) // RECORD_BYTES)
        if self.timers.deadline() <= now:
            work += self._expire(now)
        if self.orphans.due_at <= now:
            for flow in self.orphans.overdue(now):
                self._give_up(flow)
        if self.dirty:
            work += self._emit(now)
        if self.releasing:
            self._release_completed()
        return work

    def deadline(self) -> float:
        """When step must be called again without an event; at once while ingress has room again for more."""
        if self.dirty and self.ingress_out.room() > 0:
            return 0.0
        for ring in self.guests_in:
            if ring.pending():
                return 0.0
        if self.dirty or self.releasing:
            # Nobody is in a hurry for these, and ingress rings no bell for them.
            return min(self.now + RELEASE_POLL_S, self.timers.deadline())
        return min(self.timers.deadline(), self.orphans.due_at)

    # --- from guests --------------------------------------------------------------------

    def _on_guest_burst(self, burst: memoryview, now: float) -> int:
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == kinds.TCP_RANGE:
                self._on_range(TcpRange.unpack(burst, at), now)
            elif kind == kinds.DIAL_ROUTED:
                self._dial(DialRouted.unpack(burst, at), now)
            elif kind == kinds.LINK_DOWN:
                self._link_down(LinkNotice.unpack(burst, at).link, now)
            else:
                flow = tcp_icmp.on_error(self.flows, self.counts, GuestError.unpack(burst, at), now)
                if flow is not None:
                    self.dirty[flow] = None
        return len(burst) // RECORD_BYTES

    def _on_range(self, run: TcpRange, now: float) -> None:
        """Segments of a guest. The run itself is the engine's handle for their payload."""
        self.counts[_SEGMENTS] += run.segments
        if run.has_other_options:
            try:
                segment = records.segment_with_options(run, self.slots[run.slot])
            except WireError as error:
                self.counts[INDEX[error.reason]] += 1
                self.worker.free(run.slot)
                self.bad_frames.note(run.link, run.segments)
                return
        else:
            segment = records.segment(run)
        if not run.length:
            self.worker.free(run.slot)
        flow = self.flows.get(run.key)
        if flow is not None and run.flags & wire_tcp.SYN and flow.conn.accepts_reuse(segment):
            self._remove(flow)
            flow = None
        if flow is not None:
            self._on_segment(flow, run, segment, now)
        else:
            flow = self._unknown(run.key, segment, run.link, now)
            if flow is None:
                if run.length:
                    self.worker.free(run.slot)
                self.bad_frames.note(run.link, run.segments)
                return
        self.dirty[flow] = None

    def _on_segment(self, flow: Flow, run: TcpRange, segment: Segment, now: float) -> None:
        """A segment of a connection that there is."""
        guest = flow.guest
        if (
            guest.pressed
            and run.length
            and (fits := self.guests.fits(flow, run.seq, run.length)) < run.length
        ):
            segment = self._cut(flow, segment, run, fits)
        elif guest.gone:
            self._come_back(Ends.of(run.key).guest_addr, run.link)
        reason = flow.conn.on_segment(segment, now)
        if reason is not None:
            self.counts[INDEX[reason]] += run.segments
            self.bad_frames.note(run.link, run.segments)
        window = flow.conn.snd_wnd
        if window * 4 < flow.told_window * 3 or window > flow.told_window * 2:
            self._tell_window(flow, window)
        if flow.held_ranges or flow.conn.reassembly.ranges:
            for loser in self.out_of_order.note(flow):
                self.counts[_OUT_OF_ORDER_LOST] += 1
                self.dirty[loser] = None

    def _cut(self, flow: Flow, segment: Segment, run: TcpRange, length: int) -> Segment:
        """A segment without its data behind length, for which is no memory; the guest sends them again."""
        self.counts[_NO_MEMORY] += segment.seg_count
        if flow.held_ranges and diff(segment.seq + length, flow.conn.rcv_nxt) <= 0:
            # The hole stays: what waits behind it would keep its slots for as long as the host does not read.
            self.counts[_OUT_OF_ORDER_LOST] += 1
            self.out_of_order.lose(flow)
        if not length:
            self.worker.free(run.slot)
        return segment._replace(
            flags=segment.flags & ~wire_tcp.FIN, length=length, buf=run if length else None
        )

    def _unknown(self, key: FlowKey, segment: Segment, link: int, now: float) -> Flow | None:
        """A segment without a connection: a SYN opens one, anything else is answered with RST."""
        if not opens(segment.flags):
            answer = reset_for(segment)
            # A guest that does not read its resets must not fill our memory with them.
            if answer is not None and self.ingress_out.room() > 0:
                self.counts[_RESETS] += 1
                self._push_out(key, answer)
            return None
        guest = self.guests.get(link)
        if reason := self.guests.refuses_syn(guest, now) or self._full(guest):
            self.counts[INDEX[reason]] += 1
            return None
        if self.guests.too_many_half_open(guest):
            self._end_early(self.room.half_open(guest))
        conn = Connection.passive(self.config, segment, self._isn(key, now), now)
        return self._add(conn, key, self._next_number(), egress_of(key, len(self.egress_out)), guest)

    def _full(self, guest: limits.Guest) -> str:
        """The counter of the limit that one more connection of the guest meets, "" if there is room now."""
        reason = self.guests.full(guest)
        if reason and self._end_early(self.room.in_table(guest, reason)):
            return ""
        return reason

    def _end_early(self, flow: Flow | None) -> bool:
        """A connection makes room for another one; False if there is none. Its guest is told nothing."""
        if flow is None:
            return False
        if flow in self.room.time_wait:
            self.counts[_EVICTED] += 1
        else:
            self.counts[_HALF_OPEN_EVICTED if flow.half_open else _GUEST_GONE] += 1
            flow.conn.on_guest_gone(self.now)
            self._act(flow)
        self._remove(flow)
        return True

    def _dial(self, dial: DialRouted, now: float) -> None:
        if dial.key in self.flows:
            self.egress_out[dial.egress].push(DialFailed.pack(dial.flow, final=False))
            return
        guest = self.guests.get(dial.link)
        if self._full(guest):
            self.counts[_DIAL_REFUSED] += 1
            self.egress_out[dial.egress].push(DialFailed.pack(dial.flow, final=True))
            return
        conn = Connection.active(self.config, self._isn(dial.key, now), now)
        self.dirty[self._add(conn, dial.key, dial.flow, dial.egress, guest)] = None

    def _add(self, conn: Connection, key: FlowKey, number: int, egress: int, guest: limits.Guest) -> Flow:
        flow = Flow(conn, key, number, egress, guest)
        self.flows[key] = self.by_number[flow.id] = flow
        self.guests.add(flow)
        self.counts[_OPENED] += 1
        self.counts[_FLOWS] = len(self.flows)
        return flow

    def _isn(self, key: FlowKey, now: float) -> int:
        ends = Ends.of(key)
        return isn.initial_sequence_number(
            self.isn_key, ends.guest_addr, ends.guest_port, ends.remote_addr, ends.remote_port, now
        )

    def _next_number(self) -> int:
        while True:
            self.number = (self.number + 1) & 0x7FFFFFFF
            if self.number and self.number not in self.by_number:
                return self.number

    # --- from egress --------------------------------------------------------------------

    def _on_host_burst(self, egress: int, burst: memoryview, now: float) -> int:
        for at in range(0, len(burst), RECORD_BYTES):
            flow = self.by_number.get(flow_id(egress, flow_of(burst, at)))
            if flow is None:
                self._without_flow(egress, burst, at)
            elif self._on_host_record(flow, burst, at, now):
                self.dirty[flow] = None
        return len(burst) // RECORD_BYTES

    def _without_flow(self, egress: int, burst: memoryview, at: int) -> None:
        """A record about no flow, or about one whose guest's side ended first."""
        kind = burst[at]
        if kind == kinds.TO_GUEST:
            # Bytes that were under way for it are void.
            piece = ToGuest.unpack(burst, at)
            self.worker.free(piece.slot, piece.flow)
        elif kind == kinds.SOCKETS_USED_UP:
            need = SocketsUsedUp.unpack(burst, at)
            self._end_early(self.room.with_socket(egress, need.link, need.make_way, None))

    def _on_host_record(self, flow: Flow, burst: memoryview, at: int, now: float) -> bool:
        """A record of egress about a connection. Returns whether that has something to do now."""
        kind = burst[at]
        conn = flow.conn
        if kind == kinds.TO_GUEST:
            piece = ToGuest.unpack(burst, at)
            conn.on_host_data(piece.slot, piece.off, piece.length, now)
        elif kind == kinds.TAKEN:
            before = conn.rcv_untaken
            conn.on_taken(Taken.unpack(burst, at).count, now)
            self.guests.taken(flow, before - conn.rcv_untaken, now)
        elif kind == kinds.SHUTDOWN:
            if Shutdown.unpack(burst, at).both:
                conn.on_host_closed(now)
            else:
                conn.on_host_eof(now)
        elif kind == kinds.CONNECTED:
            conn.on_connected(now)
        elif kind == kinds.CONNECT_FAILED:
            return self._on_connect_failed(flow, ConnectFailed.unpack(burst, at), now)
        elif kind == kinds.ABORT:
            self._on_abort(flow, now)
        return True

    def _on_connect_failed(self, flow: Flow, failure: ConnectFailed, now: float) -> bool:
        if failure.make_way != MAKE_WAY_NO and flow.conn.state == SYN_RECEIVED:
            victim = self.room.with_socket(flow.egress, flow.guest.link, failure.make_way, flow)
            if self._end_early(victim):
                # Egress had no socket for it, and has one now.
                self._tell_connect(flow)
                return False
        flow.host_open = False
        flow.conn.on_connect_failed(now, reset=refusal.answer_to_syn(failure.error) == refusal.RESET)
        return True

    def _on_abort(self, flow: Flow, now: float) -> None:
        flow.host_open = False
        conn = flow.conn
        if conn.wants_transmit and (room := self.ingress_out.room()) > 0:
            # What the host sent before its reset, as far as the guest's window takes it now.
            for out in conn.transmit(now, min(room, MAX_RANGES_A_TURN)):
                self._push_out(flow.key, out)
        conn.on_host_reset(now)

    # --- timers ---------------------------------------------------------------------------

    def _expire(self, now: float) -> int:
        count = 0
        for flow in self.timers.advance(now):
            flow.timer_at = float("inf")
            if flow.conn.deadline() <= now:
                flow.conn.on_timer(now)
                count += 1
            self.dirty[flow] = None
        return count

    # --- links that are gone ------------------------------------------------------------------

    def _link_down(self, link: int, now: float) -> None:
        guest = self.guests.link_down(link)
        if guest is None:
            return
        for half_open in guest.half_open:
            # It would keep its host socket for a minute. Should the guest come back, it sends its SYN again.
            self._give_up(cast(Flow, half_open))
        if guest.flows:
            left = [flow for flow in self.by_number.values() if flow.guest is guest and not flow.half_open]
            self.orphans.add(left, now)

    def _come_back(self, addr: int, link: int) -> None:
        for flow in self.orphans.of(addr):
            self.guests.adopt(flow, link)
            self.orphans.remove(flow)

    def _give_up(self, flow: Flow) -> None:
        self.counts[_GUEST_GONE] += 1
        flow.conn.on_guest_gone(self.now)
        self.dirty[flow] = None

    def _arm(self, flow: Flow) -> None:
        """Keep a timer at or before the connection's deadline; one that comes early is re-armed then."""
        at = flow.conn.deadline()
        if at < flow.timer_at:
            flow.timer_at = at
            self.timers.schedule(flow, at)

    # --- engine -> rings --------------------------------------------------------------------

    def _emit(self, now: float) -> int:
        """Carry out the actions of every dirty connection and let it send while ingress has room."""
        room = self.ingress_out.room()
        sent = 0
        later: dict[Flow, None] = {}
        for flow in self.dirty:
            conn = flow.conn
            gone = self._act(flow)
            if conn.wants_transmit:
                if room > 0:
                    outs = conn.transmit(now, min(room, MAX_RANGES_A_TURN))
                    room -= len(outs)
                    sent += len(outs)
                    for out in outs:
                        self._push_out(flow.key, out)
                    gone = self._act(flow) or gone
                if conn.wants_transmit and not gone:
                    later[flow] = None
            if gone:
                self._remove(flow)
            else:
                self._arm(flow)
        self.dirty = later
        return sent

    def _act(self, flow: Flow) -> bool:
        """Actions -> records for egress. Returns whether the connection is gone."""
        gone = False
        delivered = 0
        out = self.egress_out[flow.egress]
        number = flow.number
        for action in flow.conn.take_actions():
            if isinstance(action, actions.Deliver):
                run = action.buf
                assert isinstance(run, Run)
                delivered += action.length
                if flow.host_open:
                    out.push(ToHost.pack(number, run, action.skip, action.length))
                else:
                    self.worker.free(run.slot)
            elif isinstance(action, actions.Release):
                slot = action.buf
                assert isinstance(slot, int)
                self.releasing.append((self.ingress_out.push_idx(), slot, number))
            elif isinstance(action, actions.Discard):
                run = action.buf
                assert isinstance(run, Run)
                self.worker.free(run.slot)
            elif isinstance(action, actions.Connect):
                self._tell_connect(flow)
            elif isinstance(action, actions.Established):
                self.guests.opened(flow)
                if action.active:
                    out.push(GuestAnswered.pack(number, flow.guest.link, flow.conn.snd_mss))
            elif isinstance(action, actions.HostShutdown):
                self._tell(flow, Shutdown.pack(number))
            elif isinstance(action, actions.HostReset):
                self._tell(flow, FlowNotice.pack(kinds.ABORT, number))
                flow.host_open = False
            else:
                gone = True
        if flow.host_open and (gone or flow.conn.state == TIME_WAIT):
            self._tell(flow, FlowNotice.pack(kinds.CLOSED, number))
            flow.host_open = False
            if not gone and self.by_number.get(flow.id) is flow:
                self.room.time_wait[flow] = None
        if delivered:
            self.guests.charge(flow, delivered, self.now)
        return gone

    def _tell(self, flow: Flow, record: bytes) -> None:
        if flow.host_open:
            self.egress_out[flow.egress].push(record)

    def _tell_window(self, flow: Flow, window: int) -> None:
        flow.told_window = window
        self._tell(flow, Window.pack(flow.number, window))

    def _tell_connect(self, flow: Flow) -> None:
        conn = flow.conn
        record = Connect.pack(flow.number, flow.key, flow.guest.link, conn.snd_mss, conn.irs)
        self.egress_out[flow.egress].push(record)

    def _push_out(self, key: FlowKey, out: actions.Outgoing) -> None:
        self.counts[_SENT] += 1
        self.ingress_out.push(records.outgoing(key, out))

    def _remove(self, flow: Flow) -> None:
        if self.by_number.pop(flow.id, None) is None:
            return  # it made room for another one within this very burst
        if self.flows.get(flow.key) is flow:
            del self.flows[flow.key]
        self.room.time_wait.pop(flow, None)
        self.orphans.remove(flow)
        self.out_of_order.forget(flow)
        self.guests.remove(flow)
        self.timers.cancel(flow)
        flow.timer_at = -1.0  # nor is it armed again, should it be dirty
        self.counts[_FLOWS] = len(self.flows)

    def _release_completed(self) -> None:
        releasing = self.releasing
        while releasing and self.ingress_out.completed(releasing[0][0]):
            _, slot, number = releasing.popleft()
            self.worker.free(slot, number)

    def on_control(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Request ``flows``: a printable snapshot of every connection."""
        if message.get("op") == "flows":
            return {"flows": [flow.conn.snapshot() for flow in self.by_number.values()]}
        return {"error": f"tcp knows no request {message.get('op')!r}"}

    def on_released(self, source: str, tags: list[int]) -> None:
        """A tcp worker owns no slots."""

    def held(self) -> dict[str, int]:
        """How many of each thing the stage holds for guests."""
        return {
            "flows": len(self.flows),
            "flows_by_id": len(self.by_number),
            "needs_flush": len(self.dirty),
            "timers": len(self.timers),
            "time_wait": len(self.room.time_wait),
            "releasing": len(self.releasing),
            "guests": len(self.guests),
            "guests_flows": self.guests.flows,
            "guests_bytes": self.guests.held_bytes,
            "out_of_order": self.out_of_order.held(),
        }

    def close(self) -> None:
        """Nothing to give back: the segment goes with the daemon."""
