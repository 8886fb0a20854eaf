"""The receiving half of a connection: the guest's bytes in order, the receive window, and ACKs.

RFC 9293 sections 3.8.6 and 3.10.7.4, RFC 7323 sections 2 and 4.3, RFC 5681 section 4.2, RFC 2883.

The advertised window is the capacity minus the bytes that the host has not taken. Out-of-order bytes lie
inside the advertised window, so they need no extra room. The right edge never moves left. It moves right in
steps that are large enough for a sender to use (silly-window avoidance).

An ACK means that bytes were received in order, not that the host has taken them. A host that stalls must
close the window, but must not let the guest's retransmission timer expire. If the host takes bytes quickly,
the ACK is sent then. Otherwise the delayed-ACK timer sends it. While the host's next answer is expected, the
ACK goes with it.
"""

from typing import Final

from pipeline.engines.tcp.actions import Deliver, Discard
from pipeline.engines.tcp.agenda import Agenda
from pipeline.engines.tcp.autotune import Rounds
from pipeline.engines.tcp.config import DEFAULT_MSS, TcpConfig
from pipeline.engines.tcp.options import Options
from pipeline.engines.tcp.reassembly import MAX_REPORTED_BLOCKS, Reassembly
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import MASK, NO_POSITION
from pipeline.engines.tcp.timers import DELAYED_ACK, NEVER

UNSCALED_WINDOW: Final = 65535
"""Largest window without window scaling."""


def acceptable(start: int, end: int, rcv_nxt: int, rcv_adv: int) -> bool:
    """Whether positions [start, end) share sequence space with the window (RFC 9293 3.10.7.4).

    This accepts more than the RFC's table. A segment that begins before the window and ends after it (a
    retransmission after GRO) is trimmed, not refused. So is a segment that begins exactly at the right edge:
    it may be a window probe, or an ACK of a sender that has filled the window and has no other sequence
    number. (Section 3.10.7.4: "special allowance should be made to accept valid ACKs".)
    """
    if start > rcv_adv:
        return False
    return end > rcv_nxt or (start == end and start >= rcv_nxt)


class Receiver:
    """The receive sequence space (RFC 9293 section 3.3.1), and what ACKs report about it."""

    __slots__ = (
        "_agenda",
        "_awaits_first",
        "_cfg",
        "_edge_reached",
        "_rounds",
        "_taken_bytes",
        "ack_now",
        "ack_owed",
        "capacity",
        "data_received_at",
        "dsack",
        "dup_acks_owed",
        "fin_received",
        "interactive",
        "irs",
        "last_ack_sent",
        "limit",
        "rcv_adv",
        "rcv_fin",
        "rcv_mss",
        "rcv_nxt",
        "rcv_wind_shift",
        "reassembly",
        "ts_recent",
        "ts_recent_at",
        "untaken",
    )

    def __init__(self, cfg: TcpConfig, agenda: Agenda, now: float) -> None:
        self._cfg = cfg
        self._agenda = agenda

        self.irs = 0
        self.rcv_nxt = 0
        self.rcv_fin = NO_POSITION
        """Position of the guest's FIN, once a segment with it has arrived."""
        self.fin_received = False
        self.reassembly = Reassembly(cfg.max_reassembly_bytes, cfg.max_reassembly_ranges)
        self.untaken = 0
        """Bytes delivered in order that the host has not taken yet."""

        self.rcv_adv = 0
        """Right edge of the advertised window: RCV.NXT + RCV.WND. It never moves left."""
        self.rcv_wind_shift = 0
        self.rcv_mss = min(DEFAULT_MSS, cfg.rcv_mss)
        """Estimate of the size of the peer's full segments."""
        self.capacity = cfg.initial_receive_window
        """Bytes that may wait for the host. Autotuning changes it, up to ``limit``."""
        self.limit = cfg.max_receive_window
        self._rounds = Rounds()
        self._edge_reached = False
        """Whether the peer has filled the window since the last tuning."""

        self.ack_now = False
        self.ack_owed = False
        """An ACK waits until the host takes bytes, data are sent, or the delayed-ACK timer expires."""
        self.dup_acks_owed = 0
        self.dsack: tuple[int, int] | None = None
        """Duplicate to report in the next ACK (RFC 2883), as on the wire."""
        self.interactive = cfg.first_delayed_ack > 0.0
        """Whether an ACK waits for the next answer: the host has answered data with data, or may do so."""
        self._awaits_first = self.interactive
        """Whether the host may answer the first data soon. So long first_delayed_ack is the time to wait."""
        self.data_received_at = -1e9
        self._taken_bytes = 0
        """Bytes that the host took since the last ACK was sent."""

        self.ts_recent = 0
        self.ts_recent_at = now
        self.last_ack_sent = 0

    # --- opening and closing ---------------------------------------------------------

    def syn_arrived(self, syn: Segment, options: Options, now: float) -> None:
        """Read the guest's SYN or SYN-ACK: its sequence number, timestamp and window scale."""
        self.irs = syn.seq & MASK
        self.rcv_nxt = self.rcv_adv = self.last_ack_sent = self.irs + 1
        if options.ts_ok:
            self.note_timestamp(syn.ts_val, now)
        if options.scaling:
            self.rcv_wind_shift = self._cfg.window_shift
        else:
            self.rcv_wind_shift = 0
            self.limit = min(self.limit, UNSCALED_WINDOW)
        self.capacity = min(self.capacity, self.limit)

    def syn_ack_sent(self, wnd: int) -> None:
        """Our SYN-ACK was sent, with a window of wnd bytes."""
        self.rcv_adv = max(self.rcv_adv, self.rcv_nxt + wnd)
        self.last_ack_sent = self.rcv_nxt
        self.ack_now = False

    def stop(self) -> None:
        """The connection is over: acknowledge nothing."""
        self.ack_now = self.ack_owed = False

    def drop_out_of_order(self) -> None:
        """Free all bytes that wait for missing ones."""
        self._agenda.discard(self.reassembly.clear())

    # --- segments that arrive --------------------------------------------------------

    def note_timestamp(self, ts_val: int, now: float) -> None:
        """Set TS.Recent, the timestamp to echo (RFC 7323 section 4.3)."""
        self.ts_recent = ts_val
        self.ts_recent_at = now

    def report_duplicate(self, start: int, end: int) -> None:
        """Positions [start, end) arrived twice: report that in the next ACK (RFC 2883)."""
        self.dsack = (start & MASK, end & MASK)

    def ack_soon(self) -> None:
        """Make the next transmit() acknowledge, with or without data."""
        self.ack_now = True
        self._agenda.transmit_soon()

    def text(self, start: int, length: int, buf: object, seg_count: int, now: float) -> str | None:
        """Process the data [start, start + length) of an acceptable segment. buf ends in an action.

        Returns the name of a drop counter, or None if at least a part was new.
        """
        rcv_nxt = self.rcv_nxt
        end = start + length
        limit = self.rcv_adv
        if 0 <= self.rcv_fin < limit:
            limit = self.rcv_fin
        stop = end if end <= limit else limit
        if stop <= rcv_nxt or stop <= start:
            self._agenda.actions.append(Discard(buf))
            self.ack_soon()
            if start < rcv_nxt:
                self.report_duplicate(start, min(end, rcv_nxt))
                return "tcp_segment_dropped_duplicate"
            return "tcp_segment_dropped_out_of_window"
        if start > rcv_nxt:
            return self._out_of_order(start, stop, buf)
        size = stop - rcv_nxt
        agenda = self._agenda
        agenda.actions.append(Deliver(buf, rcv_nxt - start, size))
        self.rcv_nxt = stop
        self.untaken += size
        self.data_received_at = now
        mss = self.rcv_mss
        if length > mss * seg_count:
            self.rcv_mss = mss = min(length // seg_count, self._cfg.rcv_mss)
        if stop + 2 * mss > self.rcv_adv:
            self._edge_reached = True
        if start < rcv_nxt:
            self.report_duplicate(start, rcv_nxt)
            self.ack_soon()
        if end > stop:
            # A part was outside the window: the peer must learn where the window ends.
            self.ack_soon()
        if self.reassembly.ranges:
            self._drain()
            # RFC 5681 4.2: acknowledge at once if a segment fills all or part of a gap.
            self.ack_soon()
        elif not self.ack_owed:
            self.ack_owed = True
            cfg = self._cfg
            agenda.timers[DELAYED_ACK] = now + (
                cfg.first_delayed_ack if self._awaits_first else cfg.delayed_ack
            )
        return None

    def _out_of_order(self, start: int, stop: int, buf: object) -> str | None:
        dropped: list[object] = []
        kept = self.reassembly.insert(start, stop, buf, 0, dropped)
        self._agenda.discard(dropped)
        # RFC 5681 4.2: send a duplicate ACK at once.
        self.ack_soon()
        self.dup_acks_owed += 1
        if not kept:
            return "tcp_segment_dropped_reassembly_full"
        if dropped and dropped[-1] is buf:
            self.report_duplicate(start, stop)
            return "tcp_segment_dropped_duplicate"
        return None

    def _drain(self) -> None:
        """Deliver the out-of-order ranges that are in order now."""
        rcv_nxt = self.rcv_nxt
        actions = self._agenda.actions
        reassembly = self.reassembly
        while (held := reassembly.next_at(rcv_nxt)) is not None:
            start, end, buf, skip = held
            if end <= rcv_nxt:
                actions.append(Discard(buf))
                continue
            actions.append(Deliver(buf, skip + rcv_nxt - start, end - rcv_nxt))
            self.untaken += end - rcv_nxt
            rcv_nxt = end
        self.rcv_nxt = rcv_nxt
        reassembly.forget_blocks(rcv_nxt)

    def note_fin(self, position: int) -> None:
        """A segment has the peer's FIN at this position.

        A FIN needs no room, so it is accepted at the right edge, too. A FIN before bytes that were received,
        or a second FIN at another position, contradicts the peer's own stream. It is ignored.
        """
        if position < self.rcv_nxt or position > self.rcv_adv:
            return
        if self.rcv_fin == NO_POSITION:
            self.rcv_fin = position
        if self.rcv_fin != self.rcv_nxt:
            self.ack_soon()
            self.dup_acks_owed += 1

    def take_fin(self) -> None:
        """Move rcv_nxt over the FIN, and discard bytes held after it."""
        self.fin_received = True
        self.rcv_nxt += 1
        if self.rcv_adv < self.rcv_nxt:
            self.rcv_adv = self.rcv_nxt
        self.drop_out_of_order()
        self.ack_soon()

    # --- the host --------------------------------------------------------------------

    def taken(self, n: int) -> None:
        """The host took n more bytes. An ACK, a window update or a larger window may be due."""
        untaken = self.untaken - n
        self.untaken = untaken if untaken > 0 else 0
        if self.fin_received:
            return
        if untaken <= 0 and self._edge_reached:
            # The peer has filled the window and the host has emptied it: the window is the bottleneck.
            self._edge_reached = False
            self.capacity = self._rounds.tuned(self.capacity, self.limit, self._cfg)
        self._taken_bytes += n
        two_mss = 2 * self.rcv_mss
        if self.ack_owed:
            if self._taken_bytes >= two_mss or not self.interactive:
                self.ack_soon()
                return
            if self._awaits_first:
                # A SYN-ACK cannot offer the whole window. The ACK that is due soon can.
                return
        step = self.capacity >> 1
        if step > two_mss:
            step = two_mss
        if self.capacity - self.untaken - (self.rcv_adv - self.rcv_nxt) >= step:
            self.ack_soon()

    def set_limit(self, limit: int) -> None:
        """At most ``limit`` bytes may wait for the host. The advertised right edge does not move left."""
        self.limit = limit
        initial = self._cfg.initial_receive_window
        if self.capacity > limit:
            self.capacity = limit
        elif self.capacity < initial:
            self.capacity = min(initial, limit)

    # --- ACKs that are sent --------------------------------------------------------------

    def delayed_ack_expired(self) -> None:
        """The host was slow, or did not answer: acknowledge now, and do not wait for answers any more."""
        self._agenda.timers[DELAYED_ACK] = NEVER
        self.interactive = self._awaits_first = False
        if self.ack_owed:
            self.ack_soon()

    def sack_blocks(self) -> tuple[tuple[int, int], ...]:
        """The SACK blocks of the next ACK: a duplicate first (RFC 2883), then out-of-order ranges."""
        blocks = self.reassembly.sack_blocks()
        if self.dsack is not None:
            blocks = (self.dsack, *blocks[: MAX_REPORTED_BLOCKS - 1])
        return blocks

    def advertise(self) -> int:
        """The window field of a segment that is sent now. Moves rcv_adv.

        A scaled field counts units of 2**shift bytes. So as rcv_nxt moves, the field cannot express the same
        right edge again (RFC 7323 section 2.4). It is rounded up, so that the advertised edge does not move
        left. Rounding up adds to rcv_adv; when the sum would exceed the capacity by more than one unit, the
        field is rounded down. So the advertised edge may move left by less than one unit. The accepted edge
        (rcv_adv) never does.
        """
        rcv_nxt = self.rcv_nxt
        held = self.rcv_adv - rcv_nxt
        free = self.capacity - self.untaken
        shift = self.rcv_wind_shift
        step = self.capacity >> 1
        if step > self.rcv_mss:
            step = self.rcv_mss
        if free - held >= step and not self.fin_received:
            field = free >> shift
            if field > 65535:
                field = 65535
            if field << shift > held:
                self.rcv_adv = rcv_nxt + (field << shift)
                return field
        field = held >> shift
        if field << shift < held and ((field + 1) << shift) <= free + (1 << shift):
            field += 1
            self.rcv_adv = rcv_nxt + (field << shift)
        return field if field < 65535 else 65535

    def nothing_sent(self, rcv_adv: int) -> None:
        """No segment was sent after advertise(): restore the right edge from before it."""
        self.rcv_adv = rcv_adv

    def data_sent(self, now: float) -> None:
        """An ACK is sent with data. If these answer recent data, later ACKs may wait for data, too."""
        if now - self.data_received_at < self._cfg.delayed_ack:
            self.interactive = True
            self._awaits_first = False

    def ack_sent(self, rcv_adv: int, now: float) -> None:
        """A segment with an ACK and a window is sent. rcv_adv: the right edge from before advertise()."""
        self.ack_now = self.ack_owed = False
        self.dup_acks_owed = 0
        self.dsack = None
        self._taken_bytes = 0
        self.last_ack_sent = self.rcv_nxt
        self._agenda.timers[DELAYED_ACK] = NEVER
        if self.rcv_nxt >= self._rounds.edge and self.rcv_adv > rcv_adv:
            self._rounds.next(self.rcv_nxt, self.rcv_adv, now)
