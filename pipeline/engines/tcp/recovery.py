"""What the sender does with ACKs, losses and retransmission time-outs.

RFC 5681 section 3.2, RFC 6582 (peers without SACK), RFC 6675 (recovery, with RACK instead of its IsLost),
RFC 6298 section 5, RFC 3522 and 4015 (Eifel: undo after a spurious retransmission).

In the common case nothing is lost or SACKed. Then acknowledge() returns early.
"""

from typing import Final

from pipeline.engines.tcp.agenda import Agenda
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.congestion import Congestion
from pipeline.engines.tcp.options import Options
from pipeline.engines.tcp.rack import DUP_THRESH, Rack
from pipeline.engines.tcp.round_trip import measured
from pipeline.engines.tcp.rto import RttEstimator
from pipeline.engines.tcp.sack import SentRange
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.sender import Sender
from pipeline.engines.tcp.seq import MASK, NO_POSITION
from pipeline.engines.tcp.state import LOSS, OPEN, RECOVERY
from pipeline.engines.tcp.timers import NEVER, PERSIST, PTO, REORDER, RTO
from pipeline.engines.tcp.undo import Undo

RTO_AFTER_LOST_SYN: Final = 3.0
"""Seconds (RFC 6298 section 5.7)."""


class Recovery:
    """The state of loss recovery. Changes the congestion window and the timers."""

    __slots__ = (
        "_agenda",
        "_cc",
        "_cfg",
        "_options",
        "_path_mtu_mark",
        "_path_mtu_timeouts",
        "_rack",
        "_rtt",
        "_rtt_mark",
        "_snd",
        "cwnd_limited",
        "dup_acks",
        "fast_retransmit",
        "loss_suspected",
        "phase",
        "recover",
        "retransmits",
        "timeouts",
        "undo",
    )

    def __init__(
        self,
        cfg: TcpConfig,
        agenda: Agenda,
        options: Options,
        snd: Sender,
        rack: Rack,
        rtt: RttEstimator,
        cc: Congestion,
    ) -> None:
        self._cfg = cfg
        self._agenda = agenda
        self._options = options
        self._snd = snd
        self._rack = rack
        self._rtt = rtt
        self._cc = cc
        self.phase = OPEN
        """OPEN, RECOVERY or LOSS."""
        self.recover = snd.iss
        """RECOVERY and LOSS end when snd_una reaches this."""
        self.loss_suspected = False
        """Whether anything is SACKed, lost, probed for or in recovery. In the common case nothing is."""
        self.dup_acks = 0
        self.fast_retransmit = False
        """Send the next lost segment even if cwnd has no room."""
        self.cwnd_limited = False
        """Whether cwnd limited the sender the last time it sent. Only then cwnd grows."""
        self.retransmits = 0
        """Time-outs without an ACK of new data in between."""
        self.timeouts = 0
        self.undo = Undo()
        self._rtt_mark = snd.iss
        """The next ACK after this position gives a sample of the round-trip time."""
        self._path_mtu_mark = snd.iss
        """snd_nxt when the path's MTU was lowered last."""
        self._path_mtu_timeouts = 0
        """timeouts when the path's MTU was lowered last."""

    def pipe(self) -> int:
        """The estimate of bytes in the network (RFC 6675 section 4)."""
        snd = self._snd
        board = snd.board
        pipe = snd.snd_nxt - snd.snd_una - board.sacked_bytes - board.lost_bytes
        if not self._options.sack_ok and self.dup_acks:
            pipe -= self.dup_acks * snd.snd_mss
        return pipe if pipe > 0 else 0

    def established(self, syn_retransmits: int, syn_sent_at: float, seg: Segment, now: float) -> None:
        """seg acknowledges our SYN: take the first sample of the round trip, and react to a lost SYN."""
        self.retransmits = 0
        self._agenda.timers[RTO] = NEVER
        if syn_retransmits == 0:
            self._rtt.sample(now - syn_sent_at, now)
        elif self._options.ts_ok and seg.has_ts and seg.ts_ecr:
            # The timestamp echo tells which copy was answered.
            elapsed = (int(now * 1000) - seg.ts_ecr) & MASK
            self._rtt.sample(min(elapsed, 60_000) / 1000, now)
        else:
            self._rtt.restart(RTO_AFTER_LOST_SYN)
        if syn_retransmits > 1:
            # RFC 5681 3.1. One lost SYN does not reduce cwnd, as in Linux.
            self._cc.on_syn_loss()
        self._rtt_mark = self._snd.snd_nxt
        self._rack.established()

    # --- ACKs that arrive ------------------------------------------------------------------

    def acknowledge(self, seg: Segment, ack: int, same_window: bool, now: float) -> None:
        """seg acknowledges everything before position ack, with snd_una <= ack <= snd_nxt.

        same_window: seg did not change the send window, as a duplicate ACK does not.
        """
        snd = self._snd
        acked = ack - snd.snd_una
        if acked:
            newly = snd.acknowledged(ack)
            self.retransmits = 0
            rtt = self._rtt
            if ack > self._rtt_mark or rtt.backoffs:
                # One sample for each round trip. After a time-out the first possible one ends the back-off.
                sample = measured(newly, seg, ack, self._options.ts_ok, now)
                if sample >= 0.0:
                    rtt.sample(sample, now)
                    self._rtt_mark = snd.snd_nxt
            timers = self._agenda.timers
            if ack == snd.snd_nxt:
                timers[RTO] = NEVER
                timers[PTO] = NEVER
            else:
                timers[RTO] = now + rtt.rto
                self._rack.arm_probe(self.phase, self.loss_suspected, now)
            if snd.snd_nxt < snd.send_end:
                self._agenda.transmit_soon()
        else:
            newly = []
        if not (self.loss_suspected or seg.sack):
            if acked:
                if self.cwnd_limited:
                    self._cc.on_ack(acked, now, self._rtt.srtt)
                return
            if self._options.sack_ok or not self._is_duplicate(seg, same_window):
                return
        if acked or seg.sack or not self._options.sack_ok or self._rack.tlp_end_seq != NO_POSITION:
            self._recover(seg, ack, acked, newly, same_window, now)

    def _is_duplicate(self, seg: Segment, same_window: bool) -> bool:
        """Whether seg, with seg.ack == snd_una, is a duplicate ACK (RFC 5681 section 2)."""
        return same_window and seg.length == 0 and self._snd.snd_nxt > self._snd.snd_una

    def _recover(
        self, seg: Segment, ack: int, acked: int, newly: list[SentRange], same_window: bool, now: float
    ) -> None:
        """Process an ACK while a loss is suspected, or one that reports a loss."""
        snd = self._snd
        rack = self._rack
        sack_ok = self._options.sack_ok
        duplicate_bytes = 0
        if sack_ok and seg.sack:
            duplicate_bytes = snd.board.read_blocks(seg.sack, snd.snd_una, snd.snd_nxt, newly)
            if duplicate_bytes:
                rack.on_dsack(duplicate_bytes)
        if acked:
            self._undo_if_spurious(seg)
        if rack.tlp_end_seq != NO_POSITION:
            duplicate = not acked and not seg.sack and self._is_duplicate(seg, same_window)
            if rack.on_ack_of_probe(ack, duplicate_bytes > 0, duplicate):
                self._cc.on_loss(snd.snd_nxt - snd.snd_una, now)
        if self.phase != OPEN and ack >= self.recover:
            self._leave()
        if not sack_ok:
            self._count_duplicates(seg, ack, acked, same_window)
        elif newly:
            rack.on_delivered(newly, seg, now)
            rack.detect_loss(self.phase, now)
        lost = self._react_to_loss(now)
        if not lost and snd.snd_nxt < snd.send_end:
            self._agenda.transmit_soon()
        if acked and self.phase != RECOVERY and self.cwnd_limited:
            self._cc.on_ack(acked, now, self._rtt.srtt)
        self.loss_suspected = bool(
            self.phase != OPEN or snd.board.sacked_bytes or lost or self.dup_acks or rack.probing()
        )
        if self.loss_suspected:
            if newly:
                rack.silence_ends()
            rack.arm_probe(self.phase, self.loss_suspected, now)

    def _react_to_loss(self, now: float) -> bool:
        """Whether anything must be sent again. The first loss begins fast recovery."""
        if not self._snd.board.lost_bytes:
            return False
        if self.phase == OPEN:
            self._enter(now)
        self._agenda.transmit_soon()
        return True

    def _count_duplicates(self, seg: Segment, ack: int, acked: int, same_window: bool) -> None:
        """NewReno (RFC 6582): the third duplicate ACK, and each partial ACK, mark one segment lost."""
        snd = self._snd
        if acked:
            if self.phase == RECOVERY:
                self.dup_acks = max(0, self.dup_acks - max(0, acked // snd.snd_mss - 1))
                snd.board.mark_front_lost(snd.snd_mss)
            else:
                self.dup_acks = 0
            return
        if not self._is_duplicate(seg, same_window) or self.phase == LOSS:
            return
        self.dup_acks += 1
        # RFC 6582 section 4.1: not again in a window for which a time-out or recovery has begun already.
        if self.dup_acks == DUP_THRESH and self.phase == OPEN and ack >= self.recover:
            snd.board.mark_front_lost(snd.snd_mss)

    def _enter(self, now: float) -> None:
        """Start fast recovery (RFC 6675 section 5, step 4)."""
        self.phase = RECOVERY
        self.recover = self._snd.snd_nxt
        self.fast_retransmit = True
        self.undo.remember(self._cc)
        self._cc.on_loss(self._snd.snd_nxt - self._snd.snd_una, now)

    def _leave(self) -> None:
        if self.phase == RECOVERY:
            self._cc.on_recovery_exit()
            self._rack.on_recovery_exit()
        self._be_open()

    def _be_open(self) -> None:
        """End RECOVERY or LOSS. There is nothing left to undo."""
        self.phase = OPEN
        self.dup_acks = 0
        self.fast_retransmit = False
        self.undo.forget()

    def _undo_if_spurious(self, seg: Segment) -> None:
        """If seg shows that nothing was lost, restore the congestion window and the RTO."""
        if self._options.ts_ok and seg.has_ts and self.undo.spurious(seg.ts_ecr):
            self._cc.undo(self.undo.cwnd, self.undo.ssthresh)
            self._snd.board.unmark_lost()
            self._rtt.undo_back_off()
            self._be_open()

    # --- segments that are sent ------------------------------------------------------------

    def room(self) -> int:
        """Bytes that cwnd allows in addition to those in flight."""
        if self.loss_suspected:
            return self._cc.cwnd - self.pipe()
        return self._cc.cwnd - (self._snd.snd_nxt - self._snd.snd_una)

    def data_sent(self, limited: bool, now: float) -> None:
        """New data were sent. limited: cwnd had no room for more."""
        self._arm(now)
        cc = self._cc
        if not limited and cc.cwnd < cc.ssthresh:
            # As in Linux: in slow start cwnd grows if half of it is used.
            limited = 2 * (self._snd.snd_nxt - self._snd.snd_una) >= cc.cwnd
        self.cwnd_limited = limited

    def cwnd_is_full(self) -> None:
        """Nothing could be sent, because cwnd had no room."""
        self.cwnd_limited = True

    def range_retransmitted(self, now: float) -> None:
        """A lost range was sent again."""
        self.fast_retransmit = False
        self.undo.retransmitted(now)

    def retransmitted(self, now: float) -> None:
        """Lost ranges were sent again, as far as the windows allow."""
        self._arm(now)

    def _arm(self, now: float) -> None:
        timers = self._agenda.timers
        if timers[RTO] == NEVER:
            timers[RTO] = now + self._rtt.rto
        self._rack.arm_probe(self.phase, self.loss_suspected, now)

    # --- timers ----------------------------------------------------------------------------

    def reorder_expired(self, now: float) -> None:
        """The reordering window has passed (RFC 8985 section 6.3)."""
        self._agenda.timers[REORDER] = NEVER
        self._rack.detect_loss(self.phase, now)
        if self._react_to_loss(now):
            self.loss_suspected = True

    def probe_expired(self, now: float) -> None:
        """No ACK has arrived for a while: probe for the loss of the last segments (RFC 8985 section 7)."""
        self._agenda.timers[PTO] = NEVER
        if self.phase == RECOVERY:
            if not self._rack.probe_expired_in_recovery():
                return
            self.fast_retransmit = True
        elif not self._rack.probe_expired(self.loss_suspected, now):
            return
        self.loss_suspected = True
        self._agenda.transmit_soon()

    def retransmission_timeout(self, last_received_at: float, now: float) -> bool:
        """The RTO timer expired (RFC 6298 section 5.4 to 5.6). Returns False if the peer counts as dead."""
        snd = self._snd
        board = snd.board
        timers = self._agenda.timers
        timers[PTO] = NEVER
        timers[REORDER] = NEVER
        timers[PERSIST] = NEVER
        if not board.ranges:
            timers[RTO] = NEVER
            return True
        # A peer that closed its window but still answers is not dead (RFC 9293 MUST-37).
        if snd.snd_wnd > 0 or now - last_received_at > self._cfg.max_rto:
            self.retransmits += 1
            if self.retransmits > self._cfg.retries:
                return False
        self.timeouts += 1
        flight = snd.snd_nxt - snd.snd_una
        first = self.phase != LOSS
        if self.phase == OPEN:
            self.undo.remember(self._cc)
        self.phase = LOSS
        self._cc.on_rto(flight, now, first)
        board.mark_all_lost(reneged=board.ranges[0].sacked)
        self.fast_retransmit = False
        self._start_over()
        self._rtt.back_off()
        timers[RTO] = now + self._rtt.rto
        return True

    def _start_over(self) -> None:
        """Send again all that is marked lost, and ignore what older ACKs report about losses."""
        self.recover = self._snd.snd_nxt
        self.dup_acks = 0
        self._rack.forget_probe()
        self.loss_suspected = True
        self._agenda.transmit_soon()

    # --- the path's MTU --------------------------------------------------------------------

    def believes_path_mtu(self) -> bool:
        """Whether a message about a smaller MTU is believed: once for each window or time-out."""
        return self._snd.snd_una >= self._path_mtu_mark or self.timeouts != self._path_mtu_timeouts

    def path_mtu_lowered(self) -> None:
        """Mark ranges lost that may have been sent in segments longer than snd_mss. This cannot be undone."""
        snd = self._snd
        board = snd.board
        self._path_mtu_mark = snd.snd_nxt
        self._path_mtu_timeouts = self.timeouts
        for sent in board.ranges:
            if sent.end - sent.start > snd.snd_mss:
                board.mark_lost(sent)
        if not board.lost_bytes:
            return
        if self.phase == OPEN:
            self.phase = LOSS
        self.fast_retransmit = True
        self.undo.forget()
        self._start_over()
