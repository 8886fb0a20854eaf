"""Processes a segment from the guest: SEGMENT ARRIVES of RFC 9293, section 3.10.7.4.

This module is for the synchronized states and SYN-RECEIVED. handshake.py is for SYN-SENT. The steps and their
order are those of the RFC: sequence number, RST, SYN, ACK, window, text, FIN. PAWS (RFC 7323 section 5.3)
comes before them. If a segment may be a blind attack, a challenge ACK answers it (RFC 5961). The number of
these ACKs is limited. Urgent data are treated as normal data, and the urgent pointer is ignored (RFC 6093
advises against its use).

RFC 7323 section 3.2 says that a segment without timestamps SHOULD be dropped on a connection that agreed on
them. It is processed here, as in Linux, because some stacks leave timestamps out of keep-alives. PAWS does
not protect such a segment.
"""

from typing import Final

from pipeline.engines.tcp import closing, handshake
from pipeline.engines.tcp.actions import Discard
from pipeline.engines.tcp.ending import HOST_RESET
from pipeline.engines.tcp.receiver import acceptable
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import HALF, MASK
from pipeline.engines.tcp.state import (
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    SYN_RECEIVED,
    TIME_WAIT,
)
from pipeline.engines.tcp.tcb import Tcb
from pipeline.engines.tcp.timers import LINGER
from pipeline.wire.tcp import ACK, FIN, RST, SYN

PAWS_IDLE: Final = 24 * 86400.0
"""Seconds after which ts_recent is too old to compare with (RFC 7323 section 5.5)."""


def segment_arrives(c: Tcb, seg: Segment, now: float) -> str | None:
    """Process seg. Its handle ends in an action. Returns the name of a drop counter, or None."""
    flags = seg.flags
    length = seg.length
    rcv = c.rcv
    rcv_nxt = rcv.rcv_nxt
    start = rcv_nxt + ((seg.seq - rcv_nxt + HALF) & MASK) - HALF
    end = start + length
    if flags & (SYN | FIN | RST):
        end += (1 if flags & FIN else 0) + (1 if flags & SYN else 0)
        if c.state == SYN_RECEIVED and flags & SYN and not flags & RST and start + 1 == rcv_nxt:
            if not flags & ACK:
                return _syn_again(c, seg)
            # The SYN-ACK of a simultaneous open.
            start = rcv_nxt

    # PAWS
    has_ts = c.options.ts_ok and seg.has_ts
    older = has_ts and (seg.ts_val - rcv.ts_recent) & MASK >= HALF
    if older and not flags & RST and now - rcv.ts_recent_at < PAWS_IDLE:
        return _unacceptable(c, seg, now, "tcp_segment_dropped_paws")

    # First, the sequence number.
    if not acceptable(start, end, rcv_nxt, rcv.rcv_adv):
        return _out_of_window(c, seg, start, end, now)
    if has_ts and start <= rcv.last_ack_sent:
        rcv.note_timestamp(seg.ts_val, now)
    c.probing.heard(now)

    # Second, RST, and fourth, SYN. (The third step of the RFC is about security labels.)
    if flags & (RST | SYN) and (flags & RST or start != rcv_nxt or c.state != SYN_RECEIVED):
        return _reset_or_syn(c, seg, start, now)

    # Fifth, ACK.
    reason = _acknowledge(c, seg, start, now)
    if reason is not None or not c.state:
        _discard(c, seg)
        return reason

    # Seventh, text. (The sixth step is about urgent data.)
    if seg.buf is not None:
        reason = _take_text(c, seg, start, now)
        if not c.state:
            return reason

    # Eighth, FIN.
    if flags & FIN and not rcv.fin_received:
        rcv.note_fin(start + length)
    if rcv.rcv_fin == rcv.rcv_nxt and not rcv.fin_received:
        rcv.take_fin()
        closing.fin_taken(c, now)
    return reason


def _acknowledge(c: Tcb, seg: Segment, start: int, now: float) -> str | None:
    """Process the ACK and the window of an acceptable segment that begins at start.

    Returns the name of a drop counter if the data and FIN of the segment must not be used. Afterwards the
    connection may be CLOSED.
    """
    flags = seg.flags
    if not flags & ACK:
        return "tcp_segment_dropped_no_ack"
    snd = c.snd
    una = snd.snd_una
    ack = una + ((seg.ack - una + HALF) & MASK) - HALF
    if c.state == SYN_RECEIVED:
        if ack != snd.snd_nxt or snd.snd_nxt == snd.iss:
            c.queue_reset(seg.ack)
            return "tcp_segment_dropped_bad_ack"
        handshake.establish(c, start, ack, seg, now)
        una = ack
    if ack >= una:
        if ack > snd.snd_nxt:
            return _challenge(c, now, "tcp_segment_dropped_bad_ack")
        # The window of a SYN is not scaled (RFC 7323 section 2.2).
        wnd = seg.wnd if flags & SYN else seg.wnd << snd.snd_wind_shift
        same_window = wnd == snd.snd_wnd
        snd.update_window(wnd, start, ack)
        if snd.snd_nxt > una:
            c.recovery.acknowledge(seg, ack, same_window, now)
            if snd.fin_queued and snd.snd_una > snd.queue_end:
                closing.fin_acknowledged(c, now)
    elif ack < una - snd.max_snd_wnd:
        # RFC 5961 section 5.2.
        return _challenge(c, now, "tcp_segment_dropped_bad_ack")
    return None


def _take_text(c: Tcb, seg: Segment, start: int, now: float) -> str | None:
    length = seg.length
    state = c.state
    rcv = c.rcv
    if length and c.host_closed and start + length > rcv.rcv_nxt and not rcv.fin_received:
        # RFC 1122 4.2.2.13, RFC 9293 3.10.7.4: the host will never read this.
        _discard(c, seg)
        c.finish(HOST_RESET, tell_host=False, tell_guest=True)
        return "tcp_segment_dropped_host_closed"
    if length and state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
        return rcv.text(start, length, seg.buf, seg.seg_count, now)
    _discard(c, seg)
    if length:
        rcv.ack_soon()
        return "tcp_segment_dropped_after_fin"
    return None


def _discard(c: Tcb, seg: Segment) -> None:
    if seg.buf is not None:
        c.agenda.actions.append(Discard(seg.buf))


def _syn_again(c: Tcb, seg: Segment) -> str | None:
    """The guest repeats its SYN: our SYN-ACK was lost, or the host socket is not connected yet."""
    _discard(c, seg)
    if c.host_connected and c.snd.snd_nxt > c.snd.iss:
        c.send_syn()
    return "tcp_segment_dropped_duplicate"


def _out_of_window(c: Tcb, seg: Segment, start: int, end: int, now: float) -> str | None:
    """The segment [start, end) does not overlap the window."""
    rcv = c.rcv
    if seg.flags & RST:
        _discard(c, seg)
        if rcv.fin_received and start == rcv.rcv_nxt - 1:
            # Some stacks reset with the sequence number of their FIN.
            closing.guest_reset(c)
            return None
        return "tcp_segment_dropped_bad_reset"
    if seg.flags & FIN and c.state == TIME_WAIT:
        c.agenda.timers[LINGER] = now + c.cfg.time_wait
    if end > rcv.rcv_nxt:
        return _unacceptable(c, seg, now, "tcp_segment_dropped_out_of_window")
    if seg.length and start < end:
        rcv.report_duplicate(start, start + seg.length)
    return _unacceptable(c, seg, now, "tcp_segment_dropped_duplicate")


def _unacceptable(c: Tcb, seg: Segment, now: float, reason: str) -> str | None:
    """Answer with an ACK and drop. ACKs of segments without data or FIN are limited: they may loop."""
    _discard(c, seg)
    if not (seg.length or seg.flags & FIN) and not c.challenges.may_answer_invalid(now):
        return reason
    if c.state == SYN_RECEIVED and c.snd.snd_nxt == c.snd.iss:
        # Our SYN-ACK is not sent, so an ACK would not have a sequence number.
        return reason
    c.rcv.ack_soon()
    return reason


def _reset_or_syn(c: Tcb, seg: Segment, start: int, now: float) -> str | None:
    """Accept a reset only with the exact sequence number (RFC 5961 section 3.2), and no SYN (section 4.2)."""
    _discard(c, seg)
    if not seg.flags & RST:
        return _challenge(c, now, "tcp_segment_dropped_syn_in_window")
    if start != c.rcv.rcv_nxt:
        return _challenge(c, now, "tcp_segment_dropped_bad_reset")
    closing.guest_reset(c)
    return None


def _challenge(c: Tcb, now: float, reason: str) -> str | None:
    """Send a challenge ACK: an honest peer answers it with the right number (RFC 5961 section 7)."""
    if not c.challenges.may_challenge(now):
        return "tcp_segment_dropped_challenge_limit"
    c.rcv.ack_soon()
    return reason
