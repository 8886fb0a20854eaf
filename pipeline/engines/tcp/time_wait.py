"""A connection in TIME-WAIT as one small object (RFC 9293 sections 3.6.1 and 3.10.7.4, RFC 6191).

After both FINs a connection waits for ``time_wait`` seconds, so that it can answer a FIN that the guest sends
again. A server that closes its connections first leaves thousands of them. A Connection consists of 25
objects, and nearly all of them are about sending. So the stage keeps a TimeWait in its place, from the last
ACK on.

A TimeWait answers a segment as ``arrival.segment_arrives`` does in state TIME-WAIT. Tests compare the two. It
has a part of the interface of Connection: what the stage uses of a connection in TIME-WAIT. There is one
difference. The largest window that the guest ever offered stays as it is. It decides only whether an old
ACK gets a challenge ACK (RFC 5961 section 5.2).
"""

from pipeline.engines.tcp.actions import Outgoing
from pipeline.engines.tcp.arrival import PAWS_IDLE
from pipeline.engines.tcp.closing import is_newer, opens
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.receiver import acceptable
from pipeline.engines.tcp.segment import Segment, seg_len
from pipeline.engines.tcp.seq import HALF, MASK, unwrap
from pipeline.engines.tcp.state import CLOSED, TIME_WAIT
from pipeline.engines.tcp.timers import LINGER
from pipeline.wire.tcp import ACK, FIN, RST, SYN


class TimeWait:
    """What is left of a connection. Sequence numbers are positions (see seq.py)."""

    __slots__ = (
        "_ack_due",
        "_challenges",
        "_dsack",
        "_last_ack_sent",
        "_last_sent_at",
        "_max_snd_wnd",
        "_rcv_adv",
        "_sack_ok",
        "_time_wait",
        "_ts_ok",
        "_ts_recent",
        "_ts_recent_at",
        "_window",
        "bytes_from_guest",
        "bytes_to_guest",
        "end",
        "ends_at",
        "is_active",
        "last_received_at",
        "min_rtt",
        "over",
        "rcv_nxt",
        "rcv_untaken",
        "retransmissions",
        "snd_nxt",
    )

    def __init__(self, c: Connection) -> None:
        """c: in state TIME-WAIT. It is not used again, except for its limit on challenge ACKs."""
        rcv, snd, options = c.rcv, c.snd, c.options
        self._time_wait = c.cfg.time_wait
        self._challenges = c.challenges
        self._ts_ok = options.ts_ok
        self._sack_ok = options.sack_ok
        self._max_snd_wnd = snd.max_snd_wnd
        self._last_sent_at = snd.last_sent_at
        self._ts_recent = rcv.ts_recent
        self._ts_recent_at = rcv.ts_recent_at
        self._last_ack_sent = rcv.last_ack_sent
        self._dsack = rcv.dsack
        self._window = rcv.advertise()
        """The window field of each ACK. Nothing fills or empties the window any more."""
        self._rcv_adv = rcv.rcv_adv
        self.snd_nxt = snd.snd_nxt
        self.rcv_nxt = rcv.rcv_nxt
        self.rcv_untaken = rcv.untaken
        """Bytes delivered in order that the host has not taken yet."""
        self._ack_due = rcv.ack_now
        self.over = False
        """Whether the connection has ended before its time."""
        self.ends_at = c.agenda.timers[LINGER]
        """When the wait ends. A FIN moves it later."""
        self.end = c.end
        self.is_active = c.is_active
        self.last_received_at = c.last_received_at
        self.bytes_from_guest = c.bytes_from_guest
        self.bytes_to_guest = c.bytes_to_guest
        self.retransmissions = c.retransmissions
        self.min_rtt = c.min_rtt

    @property
    def state(self) -> int:
        """TIME-WAIT, or CLOSED if it is over."""
        return CLOSED if self.over else TIME_WAIT

    @property
    def last_active_at(self) -> float:
        """When either side sent the last segment. ACKs of ours do not count."""
        return max(self.last_received_at, self._last_sent_at)

    @property
    def wants_transmit(self) -> bool:
        """Whether transmit() has something to send."""
        return self._ack_due

    def deadline(self) -> float:
        """When the wait ends."""
        return self.ends_at

    def holds_bytes(self) -> bool:
        """Whether the connection holds handles: never."""
        return False

    def finish(self) -> None:
        """End the wait: the guest or the stage wants it. Nothing is sent."""
        self.over = True
        self._ack_due = False

    def on_taken(self, n: int, now: float) -> None:
        """The host took n more of the delivered bytes."""
        self.rcv_untaken = max(self.rcv_untaken - n, 0)

    def accepts_reuse(self, seg: Segment) -> bool:
        """Whether seg may open a new connection with this 4-tuple (RFC 6191)."""
        return opens(seg.flags) and (self.over or is_newer(seg, self._ts_ok, self._ts_recent, self.rcv_nxt))

    def transmit(self, now: float, max_ranges: int) -> list[Outgoing]:
        """The ACK that answers the segments since the last one, if it is due and max_ranges is not 0."""
        if not self._ack_due or max_ranges <= 0:
            return []
        sack: tuple[tuple[int, int], ...] = ()
        if self._sack_ok and self._dsack is not None:
            sack = (self._dsack,)
        ts_val, ts_ecr = (int(now * 1000) & MASK, self._ts_recent) if self._ts_ok else (0, 0)
        self._ack_due = False
        self._dsack = None
        self._last_ack_sent = self.rcv_nxt
        header = (self.rcv_nxt & MASK, self._window, ts_val, ts_ecr, self._ts_ok, sack, 0)
        return [Outgoing(self.snd_nxt & MASK, ACK, header)]

    def on_segment(self, seg: Segment, now: float) -> str | None:
        """A segment of the guest arrived. Its data are never used: the stage frees their handle.

        Returns the name of a drop counter, or None.
        """
        if self.over:
            return "tcp_segment_dropped_closed"
        flags = seg.flags
        start = unwrap(seg.seq, self.rcv_nxt)
        has_ts = self._ts_ok and seg.has_ts
        older = has_ts and (seg.ts_val - self._ts_recent) & MASK >= HALF
        if older and not flags & RST and now - self._ts_recent_at < PAWS_IDLE:
            return self._unacceptable(seg, now, "tcp_segment_dropped_paws")
        end = start + seg_len(seg)
        if not acceptable(start, end, self.rcv_nxt, self._rcv_adv):
            return self._out_of_window(seg, start, end, now)
        if has_ts and start <= self._last_ack_sent:
            self._ts_recent = seg.ts_val
            self._ts_recent_at = now
        self.last_received_at = now
        if flags & RST:
            if start != self.rcv_nxt:
                return self._challenge(now, "tcp_segment_dropped_bad_reset")
            self.finish()
            return None
        if flags & SYN:
            return self._challenge(now, "tcp_segment_dropped_syn_in_window")
        return self._acknowledgment(seg, now)

    def _acknowledgment(self, seg: Segment, now: float) -> str | None:
        """The ACK and the data of an acceptable segment."""
        if not seg.flags & ACK:
            return "tcp_segment_dropped_no_ack"
        ack = unwrap(seg.ack, self.snd_nxt)
        if not self.snd_nxt - self._max_snd_wnd <= ack <= self.snd_nxt:
            return self._challenge(now, "tcp_segment_dropped_bad_ack")
        if seg.length:
            self._ack_due = True
            return "tcp_segment_dropped_after_fin"
        return None

    def _out_of_window(self, seg: Segment, start: int, end: int, now: float) -> str | None:
        """The segment [start, end) does not overlap the window."""
        if seg.flags & RST:
            if start != self.rcv_nxt - 1:
                return "tcp_segment_dropped_bad_reset"
            # Some stacks reset with the sequence number of their FIN.
            self.finish()
            return None
        if seg.flags & FIN:
            # RFC 9293 3.10.7.4, eighth: restart the 2 MSL time-out.
            self.ends_at = now + self._time_wait
        if end > self.rcv_nxt:
            return self._unacceptable(seg, now, "tcp_segment_dropped_out_of_window")
        if seg.length and start < end:
            self._dsack = (start & MASK, start + seg.length & MASK)
        return self._unacceptable(seg, now, "tcp_segment_dropped_duplicate")

    def _unacceptable(self, seg: Segment, now: float, reason: str) -> str:
        """Answer with an ACK and drop. ACKs of segments without data or FIN are limited: they may loop."""
        if seg.length or seg.flags & FIN or self._challenges.may_answer_invalid(now):
            self._ack_due = True
        return reason

    def _challenge(self, now: float, reason: str) -> str:
        """Answer with a challenge ACK (RFC 5961 section 7)."""
        if not self._challenges.may_challenge(now):
            return "tcp_segment_dropped_challenge_limit"
        self._ack_due = True
        return reason
