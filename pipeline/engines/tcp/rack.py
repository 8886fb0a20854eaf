"""RACK loss detection and tail-loss probes (RFC 8985), for peers with SACK.

A range is lost when one that was sent later has been delivered and the reordering window has passed. This
finds lost retransmissions too, which RFC 6675 leaves to the time-out: on a link that loses one segment in
twenty, one retransmission in twenty is lost again. RACK works on the ranges of the scoreboard, so a burst is
one entry with one time; positions order the bytes within it.
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
"""Seconds; times are sums of floats."""
MIN_PTO: Final = 0.01
"""A probe timer below this would fire for every pause of a guest's CPU."""
REO_WND_PERSIST: Final = 16


class Rack:
    """What RFC 8985 remembers of a connection. ``phase`` is always that of Recovery."""

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
        """The probe of this silence in recovery has been sent."""

    def established(self) -> None:
        """Our SYN is acknowledged."""
        self.rack_fack = self._snd.snd_una

    # --- RACK ----------------------------------------------------------------------------

    def on_delivered(self, newly: list[SentRange], seg: Segment, now: float) -> None:
        """Sections 6.2 steps 1 to 3: what the ranges just (s)acknowledged say about time and order."""
        # As of the last ACK: the order of blocks within this one says nothing about that of the network.
        fack = self.rack_fack
        for sent in newly:
            end = sent.end
            if sent.retransmitted:
                # Step 2: the ACK may be for the original. Then this says nothing.
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
        """Section 6.2 step 4: a retransmission was needless, so wait longer; once a round trip.

        More DSACKs than retransmissions come from a link that duplicates: they say nothing.
        """
        self.dsacked_bytes += size
        if self.dsacked_bytes > self._snd.board.retransmitted_bytes:
            return
        if not self.tlp_is_retrans:
            # Both copies arrived, so the first had only been overtaken. RFC 8985 sees reordering in
            # ranges sent once alone. Where all that is late is sent again at once, there are none.
            self.reordering_seen = True
        if self._snd.snd_una > self.reo_wnd_round:
            self.reo_wnd_round = self._snd.snd_nxt
            self.reo_wnd_mult += 1
            self.reo_wnd_persist = REO_WND_PERSIST

    def on_recovery_exit(self) -> None:
        """Forget the wider window after 16 recoveries without a needless retransmission."""
        if self.reo_wnd_mult > 1:
            self.reo_wnd_persist -= 1
            if self.reo_wnd_persist <= 0:
                self.reo_wnd_mult = 1

    def reo_wnd(self, phase: int) -> float:
        """Section 6.2 step 4: how long a range may be overtaken before it counts as lost, in seconds."""
        snd = self._snd
        if not self.reordering_seen and (phase != OPEN or snd.board.sacked_bytes >= DUP_THRESH * snd.snd_mss):
            return 0.0
        return min(self.reo_wnd_mult * self._rtt.min_rtt / 4, self._rtt.srtt)

    def detect_loss(self, phase: int, now: float) -> None:
        """Section 6.2 step 5: mark ranges that are lost; set the timer for those that may yet be."""
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
                    # Ranges that were never retransmitted lie in order of time: later ones are newer still.
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

    def arm_probe(self, phase: int, trouble: bool, now: float) -> None:
        """Section 7.2: start the probe timer while data are in flight and no loss is suspected.

        Not for a single segment: the probe would have to wait for the peer's delayed ACK, and the RTO comes
        no later.

        Beyond the RFC, a probe is sent in fast recovery too, once in a silence. When the last thing sent was
        a retransmission and that was lost, nothing comes back that RACK could judge by. At 5 % loss this is
        what most time-outs are made of.
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
            wanted = not trouble and snd.snd_nxt - snd.snd_una > snd.snd_mss
        if wanted and self._options.sack_ok and pto < timers[RTO] and srtt > 0.0:
            timers[PTO] = pto
        else:
            timers[PTO] = NEVER

    def probe_expired(self, trouble: bool, now: float) -> bool:
        """Section 7.3: have one segment sent: new data if there are any, else the last one again.

        False when no probe is needed.
        """
        if self.tlp_end_seq != NO_POSITION or trouble or not self._snd.board.ranges:
            return False
        self.tlp_due = True
        self._agenda.timers[RTO] = now + self._rtt.rto
        return True

    def probe_expired_in_recovery(self) -> bool:
        """Have the first segment sent again: its retransmission must have been lost. False if not needed."""
        board = self._snd.board
        if not board.ranges or board.ranges[0].sacked:
            return False
        self.recovery_probed = True
        board.mark_front_lost(self._snd.snd_mss)
        return True

    def silence_ends(self) -> None:
        """Something that was sent has arrived: the next silence in recovery may have a probe of its own."""
        self.recovery_probed = False

    def probe_begins(self) -> None:
        """transmit() tries to send the probe."""
        self.tlp_due = False
        self.tlp_is_retrans = False

    def probe_sent(self, retransmission: bool, now: float) -> None:
        """transmit() has sent the probe, as new data or as a retransmission."""
        self.tlp_is_retrans = retransmission
        self.tlp_end_seq = self._snd.snd_nxt
        timers = self._agenda.timers
        timers[PTO] = NEVER
        timers[RTO] = now + self._rtt.rto

    def on_ack_of_probe(self, ack: int, dsack: bool, duplicate: bool) -> bool:
        """Section 7.4.2: whether ack says that the probe repaired a loss. Then that was congestion."""
        if ack < self.tlp_end_seq:
            return False
        repaired = False
        if self.tlp_is_retrans and not dsack:
            repaired = ack > self.tlp_end_seq
            if not repaired and not duplicate:
                # The cumulative ACK alone may be for either copy. Wait for the next one.
                return False
        self.tlp_end_seq = NO_POSITION
        return repaired

    def probing(self) -> bool:
        """Whether a probe is due or unanswered."""
        return self.tlp_due or self.tlp_end_seq != NO_POSITION

    def forget_probe(self) -> None:
        """All in flight is sent again, or the connection is over: a probe would say nothing."""
        self.tlp_due = False
        self.tlp_end_seq = NO_POSITION
