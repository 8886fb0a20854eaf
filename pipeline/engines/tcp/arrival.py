"""SEGMENT ARRIVES in the synchronized states and SYN-RECEIVED (RFC 9293 section 3.10.7.4).

The steps of the RFC in its order: sequence number, RST, SYN, ACK, window, text, FIN. Before
them PAWS (RFC 7323 section 5.3), between them the challenge ACKs of RFC 5961, which answer
what might be a blind attack and are limited in number. Urgent data are data: the pointer is
not looked at (RFC 6093 advises against its use).

Not taken from RFC 7323 section 3.2: a segment without timestamps on a connection that agreed
on them is processed, not dropped (a SHOULD). Linux does so too, because some stacks leave
them out of keep-alives; PAWS then does not protect that segment.
"""

from typing import Final

from pipeline.engines.tcp import closing, handshake, receive, recovery
from pipeline.engines.tcp.actions import Discard
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import HALF, MASK
from pipeline.engines.tcp.state import (
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    SYN_RECEIVED,
    TIME_WAIT,
    Tcb,
)
from pipeline.engines.tcp.timers import LINGER
from pipeline.wire.tcp import ACK, FIN, RST, SYN

PAWS_IDLE: Final = 24 * 86400.0
"""Seconds after which ts_recent is too old to compare with (RFC 7323 section 5.5)."""


def segment_arrives(c: Tcb, seg: Segment, now: float) -> str | None:
    """Process seg; its handle ends in an action. The name of a drop counter, or None."""
    flags = seg.flags
    length = seg.length
    rcv_nxt = c.rcv_nxt
    start = rcv_nxt + ((seg.seq - rcv_nxt + HALF) & MASK) - HALF
    end = start + length
    if flags & (SYN | FIN | RST):
        end += (1 if flags & FIN else 0) + (1 if flags & SYN else 0)
        if c.state == SYN_RECEIVED and flags & SYN and not flags & RST and start + 1 == rcv_nxt:
            if not flags & ACK:
                return _syn_again(c, seg)
            # The other half of a simultaneous open.
            start = rcv_nxt

    # PAWS
    if c.ts_ok and seg.has_ts:
        age = (seg.ts_val - c.ts_recent) & MASK
        if age >= HALF and not flags & RST and now - c.ts_recent_at < PAWS_IDLE:
            return _unacceptable(c, seg, now, "tcp_segment_dropped_paws")

    # First, the sequence number.
    if not receive.acceptable(start, end, rcv_nxt, c.rcv_adv):
        if flags & RST:
            return _reset_out_of_window(c, seg, start)
        if c.state == TIME_WAIT and flags & FIN:
            c.timers[LINGER] = now + c.cfg.time_wait
        cause = "tcp_segment_dropped_duplicate" if end <= rcv_nxt else "tcp_segment_dropped_out_of_window"
        return _unacceptable(c, seg, now, cause, start, end)
    if c.ts_ok and seg.has_ts and start <= c.last_ack_sent:
        c.ts_recent = seg.ts_val
        c.ts_recent_at = now
    c.last_received_at = now
    c.probes_unanswered = 0

    if flags & (RST | SYN):
        # Second, RST: only the exact number resets (RFC 5961 section 3.2).
        if flags & RST:
            _discard(c, seg)
            if start == rcv_nxt:
                closing.guest_reset(c)
                return None
            return _challenge(c, now, "tcp_segment_dropped_bad_reset")
        # Fourth, SYN (RFC 5961 section 4.2).
        if start != rcv_nxt or c.state != SYN_RECEIVED:
            _discard(c, seg)
            return _challenge(c, now, "tcp_segment_dropped_syn_in_window")

    # Fifth, ACK.
    if not flags & ACK:
        _discard(c, seg)
        return "tcp_segment_dropped_no_ack"
    una = c.snd_una
    ack = una + ((seg.ack - una + HALF) & MASK) - HALF
    if c.state == SYN_RECEIVED:
        if ack != c.snd_nxt or c.snd_nxt == c.iss:
            _discard(c, seg)
            closing.queue_reset(c, seg.ack)
            return "tcp_segment_dropped_bad_ack"
        handshake.establish(c, start, ack, seg, now)
        una = ack
    if ack >= una:
        if ack > c.snd_nxt:
            _discard(c, seg)
            return _challenge(c, now, "tcp_segment_dropped_bad_ack")
        # The window of a SYN is not scaled (RFC 7323 section 2.2).
        wnd = seg.wnd if flags & SYN else seg.wnd << c.snd_wind_shift
        same_window = wnd == c.snd_wnd
        if ack > una or c.snd_wl1 < start or (c.snd_wl1 == start and c.snd_wl2 <= ack):
            c.snd_wl1 = start
            c.snd_wl2 = ack
            if not same_window:
                c.snd_wnd = wnd
                if wnd > c.max_snd_wnd:
                    c.max_snd_wnd = wnd
                if c.snd_nxt < c.send_end:
                    c.wants_transmit = True
        if c.snd_nxt > una:
            recovery.acknowledge(c, seg, ack, same_window, now)
            if c.snd_una > c.queue_end and c.fin_queued:
                closing.fin_acknowledged(c, now)
                if not c.state:
                    _discard(c, seg)
                    return None
    elif ack < una - c.max_snd_wnd:
        # RFC 5961 section 5.2.
        _discard(c, seg)
        return _challenge(c, now, "tcp_segment_dropped_bad_ack")

    # Seventh, text.
    reason: str | None = None
    if seg.buf is not None:
        reason = _take_text(c, seg, start, now)
        if not c.state:
            return reason
    # Eighth, FIN.
    if flags & FIN and not c.fin_received:
        receive.note_fin(c, start + length)
    if c.rcv_fin == c.rcv_nxt and not c.fin_received:
        receive.take_fin(c)
        closing.fin_taken(c, now)
    return reason


def _take_text(c: Tcb, seg: Segment, start: int, now: float) -> str | None:
    buf = seg.buf
    length = seg.length
    state = c.state
    if length and c.host_closed and start + length > c.rcv_nxt and not c.fin_received:
        # RFC 1122 4.2.2.13, RFC 9293 3.10.7.4: nobody will ever read this.
        _discard(c, seg)
        closing.finish(c, tell_host=False, tell_guest=True)
        return "tcp_segment_dropped_host_closed"
    if length and state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
        return receive.text(c, start, length, buf, seg.seg_count, now)
    _discard(c, seg)
    if length:
        c.ack_now = c.wants_transmit = True
        return "tcp_segment_dropped_after_fin"
    return None


def _discard(c: Tcb, seg: Segment) -> None:
    if seg.buf is not None:
        c.actions.append(Discard(seg.buf))


def _syn_again(c: Tcb, seg: Segment) -> str | None:
    """The guest's SYN once more: our SYN-ACK got lost, or the host is not yet connected."""
    _discard(c, seg)
    if c.host_connected and c.snd_nxt > c.iss:
        c.syn_due = c.wants_transmit = True
    return "tcp_segment_dropped_duplicate"


def _reset_out_of_window(c: Tcb, seg: Segment, start: int) -> str | None:
    """Dropped, but for one case: some stacks reset with the sequence number before their FIN's end."""
    _discard(c, seg)
    if c.fin_received and start == c.rcv_nxt - 1:
        closing.guest_reset(c)
        return None
    return "tcp_segment_dropped_bad_reset"


def _unacceptable(c: Tcb, seg: Segment, now: float, reason: str, start: int = 0, end: int = 0) -> str | None:
    """Answer with an ACK and drop. Segments without data or FIN might be part of an ACK loop."""
    _discard(c, seg)
    if seg.length or seg.flags & FIN:
        if seg.length and start < end <= c.rcv_nxt:
            c.dsack = (start & MASK, (start + seg.length) & MASK)
    elif now - c.invalid_ack_at < c.cfg.invalid_ack_interval:
        return reason
    else:
        c.invalid_ack_at = now
    if c.state == SYN_RECEIVED and c.snd_nxt == c.iss:
        # Before our SYN-ACK there is no number to acknowledge with.
        return reason
    c.ack_now = c.wants_transmit = True
    return reason


def _challenge(c: Tcb, now: float, reason: str) -> str | None:
    """An ACK that makes an honest peer prove itself, a few in each interval (RFC 5961 section 7)."""
    if now >= c.challenge_until:
        c.challenge_until = now + c.cfg.challenge_interval
        c.challenge_count = 0
    if c.challenge_count >= c.cfg.challenge_acks:
        return "tcp_segment_dropped_challenge_limit"
    c.challenge_count += 1
    c.ack_now = c.wants_transmit = True
    return reason
