"""RACK loss detection and tail-loss probes (RFC 8985), for peers with SACK.

A range is lost when one sent later was delivered and the reordering window has passed. That
finds lost retransmissions too, which RFC 6675 leaves to the time-out: on a link that loses
one segment in twenty, one retransmission in twenty is lost again. Works on the ranges of
the scoreboard, so a burst is one entry with one time; positions order it within.
"""

from typing import Final

from pipeline.engines.tcp.sack import SentRange
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import MASK, lt
from pipeline.engines.tcp.state import NO_POSITION, OPEN, RECOVERY, Tcb
from pipeline.engines.tcp.timers import NEVER, PTO, REORDER, RTO

DUP_THRESH: Final = 3
TIME_EPSILON: Final = 1e-6
"""Seconds; times are sums of floats."""
MIN_PTO: Final = 0.01
"""A probe timer below this would fire for every pause of a guest's CPU."""
REO_WND_PERSIST: Final = 16


def on_delivered(c: Tcb, newly: list[SentRange], seg: Segment, now: float) -> None:
    """Sections 6.2 steps 1 to 3: what the ranges just (s)acknowledged say about time and order."""
    # As of the last ACK: the order of blocks within this one tells nothing of the network's.
    fack = c.rack_fack
    for sent in newly:
        end = sent.end
        if sent.retransmitted:
            # Step 2: the ACK may be for the original. Then this says nothing.
            if c.ts_ok and seg.has_ts:
                if lt(seg.ts_ecr, int(sent.xmit_ts * 1000) & MASK):
                    continue
            elif now - sent.xmit_ts < c.rtt.min_rtt:
                continue
        elif end < fack:
            c.reordering_seen = True
        if end > c.rack_fack:
            c.rack_fack = end
        xmit_ts = sent.xmit_ts
        if xmit_ts > c.rack_xmit_ts or (xmit_ts == c.rack_xmit_ts and end > c.rack_end_seq):
            c.rack_xmit_ts = xmit_ts
            c.rack_end_seq = end
            c.rack_rtt = now - xmit_ts


def on_dsack(c: Tcb, size: int) -> None:
    """Section 6.2 step 4: a retransmission was needless, so wait longer; once a round trip.

    More DSACKs than retransmissions tell of a link that duplicates: those say nothing.
    """
    c.dsacked_bytes += size
    if c.dsacked_bytes > c.retransmitted_bytes:
        return
    if not c.tlp_is_retrans:
        # Both copies arrived, so the first had only been overtaken. RFC 8985 sees reordering in
        # ranges sent once alone; where all that is late is sent again at once, there are none.
        c.reordering_seen = True
    if c.snd_una > c.reo_wnd_round:
        c.reo_wnd_round = c.snd_nxt
        c.reo_wnd_mult += 1
        c.reo_wnd_persist = REO_WND_PERSIST


def on_recovery_exit(c: Tcb) -> None:
    """Forget the wider window after 16 recoveries without a needless retransmission."""
    if c.reo_wnd_mult > 1:
        c.reo_wnd_persist -= 1
        if c.reo_wnd_persist <= 0:
            c.reo_wnd_mult = 1


def reo_wnd(c: Tcb) -> float:
    """Section 6.2 step 4: how long a range may be overtaken before it counts as lost, in seconds."""
    if not c.reordering_seen and (c.recovery != OPEN or c.board.sacked_bytes >= DUP_THRESH * c.snd_mss):
        return 0.0
    return min(c.reo_wnd_mult * c.rtt.min_rtt / 4, c.rtt.srtt)


def detect_loss(c: Tcb, now: float) -> None:
    """Section 6.2 step 5: mark what is lost; the timer is for what may yet be."""
    board = c.board
    timers = c.timers
    timers[REORDER] = NEVER
    rack_xmit_ts = c.rack_xmit_ts
    rack_end_seq = c.rack_end_seq
    if rack_xmit_ts == 0.0:
        return
    allowed = c.rack_rtt + reo_wnd(c) - now
    wait = 0.0
    for sent in board.ranges:
        if sent.sacked or sent.lost:
            continue
        xmit_ts = sent.xmit_ts
        if xmit_ts > rack_xmit_ts or (xmit_ts == rack_xmit_ts and sent.end > rack_end_seq):
            if not board.retransmitted_out:
                # Never-retransmitted ranges lie in order of time: the rest is later still.
                break
            continue
        remaining = xmit_ts + allowed
        if remaining <= TIME_EPSILON:
            board.mark_lost(sent)
        elif remaining > wait:
            wait = remaining
    if wait:
        timers[REORDER] = now + wait


def arm_probe(c: Tcb, now: float) -> None:
    """Section 7.2: start the probe timer while data are in flight and no loss is suspected.

    Not for a single segment: the peer's delayed ACK would have to be waited for, and the
    RTO comes no later.

    Beyond the RFC, in fast recovery too, once in a silence: when the last thing sent was a
    retransmission and that was lost, nothing comes back that RACK could judge by. At 5 % loss
    this is what most time-outs are made of.
    """
    timers = c.timers
    pto = 2 * c.rtt.srtt
    if pto < MIN_PTO:
        pto = MIN_PTO
    pto += now
    if c.recovery == RECOVERY:
        wanted = not c.recovery_probed
    else:
        wanted = not c.trouble and c.snd_nxt - c.snd_una > c.snd_mss
    if wanted and c.sack_ok and pto < timers[RTO] and c.rtt.srtt > 0.0:
        timers[PTO] = pto
    else:
        timers[PTO] = NEVER


def probe_expired(c: Tcb, now: float) -> None:
    """Section 7.3: have one segment sent: new data if there are any, else the last one again.

    In recovery the first one: its retransmission is what must have been lost.
    """
    c.timers[PTO] = NEVER
    if c.recovery == RECOVERY:
        if c.board.ranges and not c.board.ranges[0].sacked:
            c.recovery_probed = True
            c.board.mark_front_lost(c.snd_mss)
            c.fast_retransmit = True
            c.trouble = c.wants_transmit = True
        return
    if c.tlp_end_seq != NO_POSITION or c.trouble or not c.board.ranges:
        return
    c.tlp_due = True
    c.trouble = True
    c.wants_transmit = True
    c.timers[RTO] = now + c.rtt.rto


def on_ack_of_probe(c: Tcb, ack: int, dsack: bool, duplicate: bool, now: float) -> None:
    """Section 7.4.2: did the probe repair a loss? Then that was congestion."""
    if ack < c.tlp_end_seq:
        return
    if c.tlp_is_retrans and not dsack:
        if ack > c.tlp_end_seq:
            c.cc.on_loss(c.snd_nxt - c.snd_una, now)
        elif not duplicate:
            # The cumulative ACK alone: either copy. Wait for what comes behind it.
            return
    c.tlp_end_seq = NO_POSITION
