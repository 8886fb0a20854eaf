"""ACKs of new data, loss recovery, and the retransmission time-out.

RFC 5681 section 3.2, RFC 6582 (peers without SACK), RFC 6675 (recovery, with RACK instead of its
IsLost), RFC 6298 section 5, RFC 3522 and 4015 (Eifel: undo after a spurious retransmission).

The common case, an ACK with nothing lost or SACKed, leaves acknowledge() early.
"""

from pipeline.engines.tcp import rack
from pipeline.engines.tcp.actions import Release
from pipeline.engines.tcp.sack import SentRange
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import MASK, lt, unwrap
from pipeline.engines.tcp.state import LOSS, NO_POSITION, OPEN, RECOVERY, Tcb
from pipeline.engines.tcp.timers import NEVER, PERSIST, PTO, REORDER, RTO

MAX_SACK_BLOCKS = 4
MAX_TIMESTAMP_RTT = 120_000
"""Milliseconds; an older echo says nothing."""


def acknowledge(c: Tcb, seg: Segment, ack: int, same_window: bool, now: float) -> None:
    """seg acknowledges everything before position ack, snd_una <= ack <= snd_nxt, and may carry SACK.

    same_window: the segment left the send window as it was (a duplicate ACK does).
    """
    una = c.snd_una
    acked = ack - una
    newly: list[SentRange] = []
    if acked:
        c.snd_una = ack
        newly = c.board.acknowledge(ack)
        chunks = c.chunks
        while chunks and chunks[0][1] <= ack:
            c.actions.append(Release(chunks.popleft()[2]))
            c.send_index -= 1
        c.retransmits = 0
        if ack > c.rtt_mark or c.rtt.backoffs:
            # One sample a round trip; after a time-out the first that can be had ends the back-off.
            _sample_rtt(c, newly, seg, now)
        timers = c.timers
        if ack == c.snd_nxt:
            timers[RTO] = NEVER
            timers[PTO] = NEVER
        else:
            timers[RTO] = now + c.rtt.rto
            rack.arm_probe(c, now)
        if c.snd_nxt < c.send_end:
            c.wants_transmit = True
    if not (c.trouble or seg.sack):
        if acked:
            if c.cwnd_limited:
                c.cc.on_ack(acked, now, c.rtt.srtt)
            return
        if c.sack_ok or not _is_duplicate(c, seg, same_window):
            return
    if acked or seg.sack or not c.sack_ok or c.tlp_end_seq != NO_POSITION:
        _recover(c, seg, ack, acked, newly, same_window, now)


def _is_duplicate(c: Tcb, seg: Segment, same_window: bool) -> bool:
    """RFC 5681 section 2, for seg.ack == snd_una."""
    return same_window and seg.length == 0 and c.snd_nxt > c.snd_una


def _sample_rtt(c: Tcb, newly: list[SentRange], seg: Segment, now: float) -> None:
    if newly and not any(sent.retransmitted for sent in newly):
        # Had any been sent twice, an earlier ACK may have been lost, and the oldest waited for that.
        c.rtt.sample(now - newly[0].xmit_ts, now)
    elif (copy := _twice_received(c, newly, seg)) is not None:
        c.rtt.sample(now - copy.xmit_ts, now)
    elif c.ts_ok and seg.has_ts and seg.ts_ecr:
        elapsed = ((int(now * 1000) & MASK) - seg.ts_ecr) & MASK
        if elapsed > MAX_TIMESTAMP_RTT:
            return
        c.rtt.sample(max(elapsed, 1) / 1000, now)
    else:
        return
    c.rtt_mark = c.snd_nxt


def _twice_received(c: Tcb, newly: list[SentRange], seg: Segment) -> SentRange | None:
    """The range, among those just acknowledged, whose last copy caused this ACK, as a DSACK says.

    The ACK of its first copy was lost. The timestamp echo tells of that first copy, and would
    make a round trip of our own time-out.
    """
    if seg.sack:
        una = c.snd_una
        left = unwrap(seg.sack[0][0], una)
        if left < unwrap(seg.sack[0][1], una) <= una:
            for sent in newly:
                if sent.start <= left < sent.end and sent.retransmitted:
                    return sent
    return None


def _recover(
    c: Tcb, seg: Segment, ack: int, acked: int, newly: list[SentRange], same_window: bool, now: float
) -> None:
    board = c.board
    dsack = False
    if c.sack_ok and seg.sack:
        dsack = _read_sack(c, seg, newly)
    if acked and c.undo_ts != NO_POSITION:
        _try_undo(c, seg)
    if c.tlp_end_seq != NO_POSITION:
        duplicate = not acked and not seg.sack and _is_duplicate(c, seg, same_window)
        rack.on_ack_of_probe(c, ack, dsack, duplicate, now)
    if c.recovery != OPEN and ack >= c.recover:
        _leave(c)
    if c.sack_ok:
        if newly:
            rack.on_delivered(c, newly, seg, now)
            rack.detect_loss(c, now)
    else:
        _count_duplicates(c, seg, ack, acked, same_window)
    if board.lost_bytes:
        if c.recovery == OPEN:
            _enter(c, now)
        c.wants_transmit = True
    elif c.snd_nxt < c.send_end:
        c.wants_transmit = True
    if acked and c.recovery != RECOVERY and c.cwnd_limited:
        c.cc.on_ack(acked, now, c.rtt.srtt)
    c.trouble = bool(
        c.recovery != OPEN
        or board.sacked_bytes
        or board.lost_bytes
        or c.dup_acks
        or c.tlp_due
        or c.tlp_end_seq != NO_POSITION
    )
    if c.trouble:
        if newly:
            c.recovery_probed = False
        rack.arm_probe(c, now)


def _read_sack(c: Tcb, seg: Segment, newly: list[SentRange]) -> bool:
    """Mark the blocks on the scoreboard; True when the first one reports a duplicate (RFC 2883)."""
    una = c.snd_una
    nxt = c.snd_nxt
    blocks = seg.sack[:MAX_SACK_BLOCKS]
    dsack = False
    for index, (left_edge, right_edge) in enumerate(blocks):
        left = unwrap(left_edge, una)
        right = unwrap(right_edge, una)
        if left >= right or right > nxt:
            continue
        if index == 0:
            if right <= una:
                dsack = True
                rack.on_dsack(c, right - left)
                continue
            if len(blocks) > 1:
                outer_left = unwrap(blocks[1][0], una)
                outer_right = unwrap(blocks[1][1], una)
                if outer_left <= left and right <= outer_right:
                    dsack = True
                    rack.on_dsack(c, right - left)
                    continue
        if right > una:
            c.board.sack(max(left, una), right, newly)
    return dsack


def _count_duplicates(c: Tcb, seg: Segment, ack: int, acked: int, same_window: bool) -> None:
    """NewReno (RFC 6582): the third duplicate ACK, and partial ACKs, mark one segment lost."""
    board = c.board
    if acked:
        if c.recovery == RECOVERY:
            c.dup_acks = max(0, c.dup_acks - max(0, acked // c.snd_mss - 1))
            board.mark_front_lost(c.snd_mss)
        else:
            c.dup_acks = 0
        return
    if not _is_duplicate(c, seg, same_window):
        return
    if c.recovery == LOSS:
        return
    c.dup_acks += 1
    # Section 4.1 of RFC 6582: not again for the window that a time-out or recovery has dealt with.
    if c.dup_acks == rack.DUP_THRESH and c.recovery == OPEN and ack >= c.recover:
        board.mark_front_lost(c.snd_mss)


def _enter(c: Tcb, now: float) -> None:
    """Start fast recovery (RFC 6675 section 5, step 4)."""
    c.recovery = RECOVERY
    c.recover = c.snd_nxt
    c.fast_retransmit = True
    _remember(c)
    c.cc.on_loss(c.snd_nxt - c.snd_una, now)


def _leave(c: Tcb) -> None:
    if c.recovery == RECOVERY:
        c.cc.cwnd = max(min(c.cc.cwnd, c.cc.ssthresh), c.cc.mss)
        rack.on_recovery_exit(c)
    _be_open(c)


def _be_open(c: Tcb) -> None:
    """Neither recovery nor the time after a time-out goes on, and there is nothing to undo."""
    c.recovery = OPEN
    c.dup_acks = 0
    c.fast_retransmit = False
    c.undo_cwnd = 0
    c.undo_ts = NO_POSITION


def _remember(c: Tcb) -> None:
    """Keep what undo needs; undo_ts is set by the first retransmission."""
    c.undo_cwnd = c.cc.cwnd
    c.undo_ssthresh = c.cc.ssthresh
    c.undo_ts = NO_POSITION


def _try_undo(c: Tcb, seg: Segment) -> None:
    """Eifel: the ACK echoes a timestamp from before our first retransmission, so the original arrived."""
    if not (c.ts_ok and seg.has_ts and lt(seg.ts_ecr, c.undo_ts)):
        return
    c.cc.undo(c.undo_cwnd, c.undo_ssthresh)
    c.board.unmark_lost()
    c.rtt.undo_back_off()
    _be_open(c)


def reorder_expired(c: Tcb, now: float) -> None:
    """The reordering window has passed (RFC 8985 section 6.3)."""
    c.timers[REORDER] = NEVER
    rack.detect_loss(c, now)
    if c.board.lost_bytes:
        if c.recovery == OPEN:
            _enter(c, now)
        c.trouble = True
        c.wants_transmit = True


def retransmission_timeout(c: Tcb, now: float) -> bool:
    """The RTO timer expired (RFC 6298 section 5.4 to 5.6). False when the peer counts as dead."""
    board = c.board
    timers = c.timers
    timers[PTO] = NEVER
    timers[REORDER] = NEVER
    timers[PERSIST] = NEVER
    if not board.ranges:
        timers[RTO] = NEVER
        return True
    # A peer that shrank its window to nothing but still answers may take its time (RFC 9293 MUST-37).
    if c.snd_wnd > 0 or now - c.last_received_at > c.cfg.max_rto:
        c.retransmits += 1
        if c.retransmits > c.cfg.retries:
            return False
    c.timeouts += 1
    flight = c.snd_nxt - c.snd_una
    if c.recovery != LOSS:
        if c.recovery == OPEN:
            _remember(c)
        c.recovery = LOSS
        c.cc.on_rto(flight, now, first=True)
    else:
        c.cc.on_rto(flight, now, first=False)
    board.mark_all_lost(reneged=board.ranges[0].sacked)
    c.recover = c.snd_nxt
    c.dup_acks = 0
    c.fast_retransmit = False
    c.tlp_due = False
    c.tlp_end_seq = NO_POSITION
    c.trouble = True
    c.rtt.back_off()
    timers[RTO] = now + c.rtt.rto
    c.wants_transmit = True
    return True
