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
from pipeline.ipc import messages
from pipeline.records import descriptor as d
from pipeline.stages.bad_frames import BadFrames
from pipeline.stages.tcp import icmp as tcp_icmp
from pipeline.stages.tcp import limits, records
from pipeline.stages.tcp.flow import Buf, Flow, Key, egress_of, flow_id
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
        self.flows: dict[Key, Flow] = {}
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
                ring.release(len(burst) // d.DESCRIPTOR_BYTES)
        for egress, ring in enumerate(self.egress_in):
            while burst := ring.peek():
                work += self._on_host_burst(egress, burst, now)
                ring.release(len(burst) // d.DESCRIPTOR_BYTES)
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
        flows = self.flows
        dirty = self.dirty
        free = self.worker.free
        count = segments = 0
        for (
            kind, flags, link, stride, gso_size, slot, off, length, _skip, seg_count,
            seq, ack, wnd, ts_val, ts_ecr, guest_addr, remote_addr, ports, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            key = (guest_addr, remote_addr, ports)
            if kind != d.TCP_RANGE:
                if kind == d.DIAL_ROUTED:
                    self._dial(key, seg_count, aux, link, now)
                elif kind == d.LINK_DOWN:
                    self._link_down(link, now)
                elif (told := tcp_icmp.on_error(flows, self.counts, key, seq, ack, aux, now)) is not None:
                    dirty[told] = None
                continue
            segments += seg_count
            buf = (slot, off, stride, gso_size) if length else None
            if aux & d.RUN_OTHER_OPTIONS:
                try:
                    segment = records.with_options(
                        self.slots[slot], seq, ack, flags, wnd, length, buf, seg_count, off, aux
                    )
                except WireError as error:
                    self.counts[INDEX[error.reason]] += 1
                    free(slot)
                    self.bad_frames.note(link, seg_count)
                    continue
            else:
                has_ts = bool(aux & d.RUN_HAS_TIMESTAMPS)
                segment = Segment(
                    seq, ack, flags, wnd, length, buf, ts_val, ts_ecr, has_ts, (), 0, -1, False, seg_count
                )
            if not length:
                free(slot)
            flow = flows.get(key)
            if flow is not None and flags & wire_tcp.SYN and flow.conn.accepts_reuse(segment):
                self._remove(flow)
                flow = None
            if flow is None:
                flow = self._unknown(key, segment, link, now)
                if flow is None:
                    if length:
                        free(slot)
                    self.bad_frames.note(link, seg_count)
                    continue
            else:
                guest = flow.guest
                if guest.pressed and length and (fits := self.guests.fits(flow, seq, length)) < length:
                    segment = self._cut(flow, segment, fits)
                elif guest.gone:
                    self._come_back(guest_addr, link)
                reason = flow.conn.on_segment(segment, now)
                if reason is not None:
                    self.counts[INDEX[reason]] += seg_count
                    self.bad_frames.note(link, seg_count)
                window = flow.conn.snd_wnd
                if window * 4 < flow.told_window * 3 or window > flow.told_window * 2:
                    self._tell_window(flow, window)
                if flow.held_ranges or flow.conn.reassembly.ranges:
                    for loser in self.out_of_order.note(flow):
                        self.counts[_OUT_OF_ORDER_LOST] += 1
                        dirty[loser] = None
            dirty[flow] = None
        self.counts[_SEGMENTS] += segments
        return count

    def _cut(self, flow: Flow, segment: Segment, length: int) -> Segment:
        """A segment without its data behind length, for which is no memory; the guest sends them again."""
        self.counts[_NO_MEMORY] += segment.seg_count
        if flow.held_ranges and diff(segment.seq + length, flow.conn.rcv_nxt) <= 0:
            # The hole stays: what waits behind it would keep its slots for as long as the host does not read.
            self.counts[_OUT_OF_ORDER_LOST] += 1
            self.out_of_order.lose(flow)
        buf = segment.buf
        if not length:
            self.worker.free(cast(Buf, buf)[0])
            buf = None
        return segment._replace(flags=segment.flags & ~wire_tcp.FIN, length=length, buf=buf)

    def _unknown(self, key: Key, segment: Segment, link: int, now: float) -> Flow | None:
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

    def _dial(self, key: Key, number: int, egress: int, link: int, now: float) -> None:
        if key in self.flows:
            self.egress_out[egress].push(d.record(d.DIAL_FAILED, flow=number))
            return
        guest = self.guests.get(link)
        if self._full(guest):
            self.counts[_DIAL_REFUSED] += 1
            self.egress_out[egress].push(d.record(d.DIAL_FAILED, flow=number, aux=d.DIAL_FINAL))
            return
        conn = Connection.active(self.config, self._isn(key, now), now)
        self.dirty[self._add(conn, key, number, egress, guest)] = None

    def _add(self, conn: Connection, key: Key, number: int, egress: int, guest: limits.Guest) -> Flow:
        flow = Flow(conn, key, number, egress, guest)
        self.flows[key] = self.by_number[flow.id] = flow
        self.guests.add(flow)
        self.counts[_OPENED] += 1
        self.counts[_FLOWS] = len(self.flows)
        return flow

    def _isn(self, key: Key, now: float) -> int:
        guest_addr, remote_addr, ports = key
        return isn.initial_sequence_number(
            self.isn_key, guest_addr, ports >> 16, remote_addr, ports & 0xFFFF, now
        )

    def _next_number(self) -> int:
        while True:
            self.number = (self.number + 1) & 0x7FFFFFFF
            if self.number and self.number not in self.by_number:
                return self.number

    # --- from egress --------------------------------------------------------------------

    def _on_host_burst(self, egress: int, burst: memoryview, now: float) -> int:
        by_number = self.by_number
        dirty = self.dirty
        count = 0
        for (
            kind, _flags, link, _stride, _gso, slot, off, length, _skip, number,
            _seq, _ack, _wnd, _ts_val, _ts_ecr, _guest, _remote, _ports, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            flow = by_number.get(flow_id(egress, number))
            if flow is None:
                # The guest's side ended first; bytes that were under way for it are void.
                if kind == d.TO_GUEST:
                    self.worker.free(slot, number)
                elif kind == d.SOCKETS_USED_UP:
                    self._end_early(self.room.with_socket(egress, link, length, None))
                continue
            conn = flow.conn
            if kind == d.TO_GUEST:
                conn.on_host_data(slot, off, length, now)
            elif kind == d.TAKEN:
                before = conn.rcv_untaken
                conn.on_taken(length, now)
                self.guests.taken(flow, before - conn.rcv_untaken, now)
            elif kind == d.SHUTDOWN:
                if aux == d.SHUTDOWN_BOTH:
                    conn.on_host_closed(now)
                else:
                    conn.on_host_eof(now)
            elif kind == d.CONNECTED:
                conn.on_connected(now)
            elif kind == d.CONNECT_FAILED:
                if length and conn.state == SYN_RECEIVED:
                    victim = self.room.with_socket(egress, flow.guest.link, length, flow)
                    if self._end_early(victim):
                        # Egress had no socket for it, and has one now.
                        self._tell_connect(flow, d.CONNECT)
                        continue
                flow.host_open = False
                conn.on_connect_failed(now, reset=refusal.answer_to_syn(aux) == refusal.RESET)
            elif kind == d.ABORT:
                flow.host_open = False
                if conn.wants_transmit and (room := self.ingress_out.room()) > 0:
                    # What the host sent before its reset, as far as the guest's window takes it now.
                    for out in conn.transmit(now, min(room, MAX_RANGES_A_TURN)):
                        self._push_out(flow.key, out)
                conn.on_host_reset(now)
            dirty[flow] = None
        return count

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
                slot, off, stride, gso_size = cast(Buf, action.buf)
                delivered += action.length
                if flow.host_open:
                    record = d.DESCRIPTOR.pack(
                        d.TO_HOST, 0, 0, stride, gso_size, slot, off, action.length, action.skip, number,
                        0, 0, 0, 0, 0, 0, 0, 0, 0,
                    )  # fmt: skip
                    out.push(record)
                else:
                    self.worker.free(slot)
            elif isinstance(action, actions.Release):
                self.releasing.append((self.ingress_out.push_idx(), cast(int, action.buf), number))
            elif isinstance(action, actions.Discard):
                self.worker.free(cast(Buf, action.buf)[0])
            elif isinstance(action, actions.Connect):
                self._tell_connect(flow, d.CONNECT)
            elif isinstance(action, actions.Established):
                self.guests.opened(flow)
                if action.active:
                    self._tell_connect(flow, d.GUEST_ANSWERED)
            elif isinstance(action, actions.HostShutdown):
                self._tell(flow, d.SHUTDOWN)
            elif isinstance(action, actions.HostReset):
                self._tell(flow, d.ABORT)
                flow.host_open = False
            else:
                gone = True
        if flow.host_open and (gone or flow.conn.state == TIME_WAIT):
            self._tell(flow, d.CLOSED)
            flow.host_open = False
            if not gone and self.by_number.get(flow.id) is flow:
                self.room.time_wait[flow] = None
        if delivered:
            self.guests.charge(flow, delivered, self.now)
        return gone

    def _tell(self, flow: Flow, kind: int) -> None:
        if flow.host_open:
            self.egress_out[flow.egress].push(d.record(kind, flow=flow.number))

    def _tell_window(self, flow: Flow, window: int) -> None:
        flow.told_window = window
        if flow.host_open:
            self.egress_out[flow.egress].push(d.record(d.WINDOW, flow=flow.number, length=window))

    def _tell_connect(self, flow: Flow, kind: int) -> None:
        guest_addr, remote_addr, ports = flow.key
        record = d.record(
            kind, flow=flow.number, gso_size=flow.conn.snd_mss, link=flow.guest.link, seq=flow.conn.irs,
            guest_addr=guest_addr, remote_addr=remote_addr, ports=ports,
        )  # fmt: skip
        self.egress_out[flow.egress].push(record)

    def _push_out(self, key: Key, out: actions.Outgoing) -> None:
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
        if isinstance(messages.request_of(message), messages.Flows):
            flows = [flow.conn.snapshot() for flow in self.by_number.values()]
            return messages.FlowsAnswer(flows).encode()
        return {"error": f"tcp knows no request {message.get('op')!r}"}

    def close(self) -> None:
        """Nothing to give back: the segment goes with the daemon."""
