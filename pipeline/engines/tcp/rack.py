"""RACK loss detection and tail-loss probes (RFC 8985), for peers with SACK.

A range is lost if a range that was sent later has been delivered and the reordering window has passed. This
also finds lost retransmissions, which RFC 6675 leaves to the time-out. On a link that loses one segment in
twenty, one retransmission in twenty is lost, too. RACK works on the ranges of the scoreboard (sack.py). A
burst is one range with one time, and positions give the order of bytes within it.
"""

from typing import Final

from pipeline.engines.tcp.agenda import Agenda
from pipeline.engines.tcp.options import Options
from pipeline.engines.tcp.rto import RttEstimator
from pipeline.engines.tcp.sack import SentRange
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.sender import Sender
from pipeline.engines.tcp.seq import MASK, NO_POSITION, lt
from pipeline.engines.tcp.state import OPEN, RECOVERY
from pipeline.engines.tcp.timers import NEVER, PTO, REORDER, RTO

DUP_THRESH: Final = 3
TIME_EPSILON: Final = 1e-6
"""Seconds. Times are sums of floats, so equal times may differ by less than this."""
MIN_PTO: Final = 0.01
"""Seconds. A shorter probe timer would fire whenever a guest's CPU pauses."""
REO_WND_PERSIST: Final = 16


class Rack:
    """The state of RFC 8985 for one connection. The parameter phase is Recovery.phase."""

    __slots__ = (
        "_agenda",
        "_options",
        "_rtt",
        "_snd",
        "dsacked_bytes",
        "rack_end_seq",
        "rack_fack",
        "rack_rtt",
        "rack_xmit_ts",
        "recovery_probed",
        "reo_wnd_mult",
        "reo_wnd_persist",
        "reo_wnd_round",
        "reordering_seen",
        "tlp_due",
        "tlp_end_seq",
        "tlp_is_retrans",
    )

    def __init__(self, agenda: Agenda, options: Options, snd: Sender, rtt: RttEstimator) -> None:
        self._agenda = agenda
        self._options = options
        self._snd = snd
        self._rtt = rtt
        self.rack_xmit_ts = 0.0
        self.rack_end_seq = 0
        self.rack_rtt = 0.0
        self.rack_fack = snd.iss
        self.reordering_seen = False
        self.dsacked_bytes = 0
        self.reo_wnd_mult = 1
        self.reo_wnd_persist = 0
        self.reo_wnd_round = NO_POSITION
        self.tlp_due = False
        """The next transmit() sends a probe."""
        self.tlp_end_seq = NO_POSITION
        self.tlp_is_retrans = False
        self.recovery_probed = False
        """A probe in recovery was sent since the last data were delivered."""

    def established(self) -> None:
        """Our SYN is acknowledged."""
        self.rack_fack = self._snd.snd_una

    # --- RACK ----------------------------------------------------------------------------

    def on_delivered(self, newly: list[SentRange], seg: Segment, now: float) -> None:
        """Section 6.2 steps 1 to 3: learn the round trip and reordering from newly delivered ranges."""
        # Compare with the state before this ACK: the order of its blocks is not the order of arrival.
        fack = self.rack_fack
        for sent in newly:
            end = sent.end
            if sent.retransmitted:
                # Step 2: ignore the range if the ACK may be for the original transmission.
                if self._options.ts_ok and seg.has_ts:
                    if lt(seg.ts_ecr, int(sent.xmit_ts * 1000) & MASK):
                        continue
                elif now - sent.xmit_ts < self._rtt.min_rtt:
                    continue
            elif end < fack:
                self.reordering_seen = True
            if end > self.rack_fack:
                self.rack_fack = end
            xmit_ts = sent.xmit_ts
            if xmit_ts > self.rack_xmit_ts or (xmit_ts == self.rack_xmit_ts and end > self.rack_end_seq):
                self.rack_xmit_ts = xmit_ts
                self.rack_end_seq = end
                self.rack_rtt = now - xmit_ts

    def on_dsack(self, size: int) -> None:
        """Section 6.2 step 4: a retransmission was not needed, so widen the window, once per round trip.

        If more bytes are reported twice than were sent twice, the link duplicates. Such DSACKs are ignored.
        """
        self.dsacked_bytes += size
        if self.dsacked_bytes > self._snd.board.retransmitted_bytes:
            return
        if not self.tlp_is_retrans:
            # Both copies arrived, so the first was only reordered. RFC 8985 detects reordering in ranges that
            # were sent once. If every late range is sent again at once, there are no such ranges.
            self.reordering_seen = True
        if self._snd.snd_una > self.reo_wnd_round:
            self.reo_wnd_round = self._snd.snd_nxt
            self.reo_wnd_mult += 1
            self.reo_wnd_persist = REO_WND_PERSIST

    def on_recovery_exit(self) -> None:
        """Go back to the narrow window after 16 recoveries without a needless retransmission."""
        if self.reo_wnd_mult > 1:
            self.reo_wnd_persist -= 1
            if self.reo_wnd_persist <= 0:
                self.reo_wnd_mult = 1

    def reo_wnd(self, phase: int) -> float:
        """Section 6.2 step 4: the reordering window, in seconds. A range that is later counts as lost."""
        snd = self._snd
        if not self.reordering_seen and (phase != OPEN or snd.board.sacked_bytes >= DUP_THRESH * snd.snd_mss):
            return 0.0
        return min(self.reo_wnd_mult * self._rtt.min_rtt / 4, self._rtt.srtt)

    def detect_loss(self, phase: int, now: float) -> None:
        """Section 6.2 step 5: mark lost ranges, and set the timer for ranges that may be lost soon."""
        board = self._snd.board
        timers = self._agenda.timers
        timers[REORDER] = NEVER
        rack_xmit_ts = self.rack_xmit_ts
        rack_end_seq = self.rack_end_seq
        if rack_xmit_ts == 0.0:
            return
        allowed = self.rack_rtt + self.reo_wnd(phase) - now
        wait = 0.0
        for sent in board.ranges:
            if sent.sacked or sent.lost:
                continue
            xmit_ts = sent.xmit_ts
            if xmit_ts > rack_xmit_ts or (xmit_ts == rack_xmit_ts and sent.end > rack_end_seq):
                if not board.retransmitted_out:
                    # Without retransmissions, ranges are in order of time: all later ones are newer.
                    break
                continue
            remaining = xmit_ts + allowed
            if remaining <= TIME_EPSILON:
                board.mark_lost(sent)
            elif remaining > wait:
                wait = remaining
        if wait:
            timers[REORDER] = now + wait

    # --- tail-loss probes ------------------------------------------------------------------

    def arm_probe(self, phase: int, loss_suspected: bool, now: float) -> None:
        """Section 7.2: start the probe timer while data are in flight and no loss is suspected.

        A single segment is not probed: the probe would have to wait for the peer's delayed ACK, so the RTO
        would expire as early.

        Beyond the RFC, a probe is sent in fast recovery too, once until data are delivered again. If the last
        transmission was a retransmission and was lost, no ACK arrives that RACK could use. At 5 % loss most
        time-outs have this cause.
        """
        timers = self._agenda.timers
        srtt = self._rtt.srtt
        pto = 2 * srtt
        if pto < MIN_PTO:
            pto = MIN_PTO
        pto += now
        if phase == RECOVERY:
            wanted = not self.recovery_probed
        else:
            snd = self._snd
            wanted = not loss_suspected and snd.snd_nxt - snd.snd_una > snd.snd_mss
        if wanted and self._options.sack_ok and pto < timers[RTO] and srtt > 0.0:
            timers[PTO] = pto
        else:
            timers[PTO] = NEVER

    def probe_expired(self, loss_suspected: bool, now: float) -> bool:
        """Section 7.3: ask for a probe: new data if there are any, else the last segment again.

        Returns False if no probe is needed.
        """
        if self.tlp_end_seq != NO_POSITION or loss_suspected or not self._snd.board.ranges:
            return False
        self.tlp_due = True
        self._agenda.timers[RTO] = now + self._rtt.rto
        return True

    def probe_expired_in_recovery(self) -> bool:
        """Mark the first segment lost again, with its retransmission. Returns False if that is not needed."""
        board = self._snd.board
        if not board.ranges or board.ranges[0].sacked:
            return False
        self.recovery_probed = True
        board.mark_front_lost(self._snd.snd_mss)
        return True

    def silence_ends(self) -> None:
        """Data were delivered: another probe in recovery is allowed."""
        self.recovery_probed = False

    def probe_begins(self) -> None:
        """transmit() tries to send the probe."""
        self.tlp_due = False
        self.tlp_is_retrans = False

    def probe_sent(self, retransmission: bool, now: float) -> None:
        """transmit() has sent the probe. retransmission: it was not new data."""
        self.tlp_is_retrans = retransmission
        self.tlp_end_seq = self._snd.snd_nxt
        timers = self._agenda.timers
        timers[PTO] = NEVER
        timers[RTO] = now + self._rtt.rto

    def on_ack_of_probe(self, ack: int, dsack: bool, duplicate: bool) -> bool:
        """Section 7.4.2: whether the ACK shows that the probe repaired a loss, which means congestion."""
        if ack < self.tlp_end_seq:
            return False
        repaired = False
        if self.tlp_is_retrans and not dsack:
            repaired = ack > self.tlp_end_seq
            if not repaired and not duplicate:
                # The cumulative ACK alone may be for either copy. Wait for the next ACK.
                return False
        self.tlp_end_seq = NO_POSITION
        return repaired

    def probing(self) -> bool:
        """Whether a probe is due or unanswered."""
        return self.tlp_due or self.tlp_end_seq != NO_POSITION

    def forget_probe(self) -> None:
        """Cancel the probe: everything in flight is sent again, or the connection is over."""
        self.tlp_due = False
        self.tlp_end_seq = NO_POSITION
