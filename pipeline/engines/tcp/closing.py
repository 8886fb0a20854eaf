"""The end of a connection: FIN in both directions, resets, TIME-WAIT, and giving all back.

RFC 9293 sections 3.6, 3.10.4, 3.10.5, 3.10.7; RFC 5961; RFC 6191 (reuse of TIME-WAIT).
"""

from pipeline.engines.tcp.actions import GONE, HOST_RESET, HOST_SHUTDOWN, Discard, Outgoing, Release
from pipeline.engines.tcp.segment import Segment, seg_len
from pipeline.engines.tcp.seq import MASK, lt, unwrap
from pipeline.engines.tcp.state import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    Tcb,
)
from pipeline.engines.tcp.timers import LINGER, all_off
from pipeline.wire.tcp import ACK, FIN, RST, SYN


def opens(flags: int) -> bool:
    """Whether a segment without a connection asks for one: SYN alone (passive()); else reset_for()."""
    return flags & (SYN | ACK | RST | FIN) == SYN


def reset_for(seg: Segment) -> Outgoing | None:
    """The reset that answers a segment without a connection (RFC 9293 section 3.10.7.1).

    None for a reset. The caller gives seg.buf back.
    """
    if seg.flags & RST:
        return None
    if seg.flags & ACK:
        return _reset(seg.ack, 0, RST)
    return _reset(0, (seg.seq + seg_len(seg)) & MASK, RST | ACK)


def _reset(seq: int, ack: int, flags: int) -> Outgoing:
    return Outgoing(seq, ack, flags, 0, 0, 0, False, (), None, 0, 0, 0)


def queue_reset(c: Tcb, seq: int) -> None:
    """<SEQ=SEG.ACK><CTL=RST> for an ACK that fits no connection; the state stays. At most one waits."""
    if not c.resets:
        c.resets.append(_reset(seq & MASK, 0, RST))
    c.wants_transmit = True


def finish(c: Tcb, tell_host: bool, tell_guest: bool) -> None:
    """The connection ends now, whatever its state: handles go back, timers stop.

    tell_host adds HostReset. tell_guest queues a reset, and Gone follows when
    transmit() has given it out; otherwise Gone is added at once.
    """
    state = c.state
    if state == CLOSED:
        return
    give_back(c)
    c.state = CLOSED
    c.timers = all_off()
    c.ack_now = c.ack_owed = c.probe_due = c.tlp_due = c.syn_due = False
    if tell_host and state not in (CLOSING, LAST_ACK, TIME_WAIT):
        # In these three both directions have ended in order: the host has nothing to lose.
        c.actions.append(HOST_RESET)
    # RFC 9293 3.10.5: no reset in SYN-SENT, nor where both sides have closed; those need none.
    if tell_guest and state not in (SYN_SENT, CLOSING, LAST_ACK, TIME_WAIT):
        seq = 0 if state == SYN_RECEIVED and c.snd_nxt == c.iss else c.snd_nxt & MASK
        c.resets = [_reset(seq, c.rcv_nxt & MASK, RST | ACK)]
        c.wants_transmit = True
    else:
        c.resets = []
        c.wants_transmit = False
        c.actions.append(GONE)


def give_back(c: Tcb) -> None:
    """Release and discard every handle that the connection holds."""
    actions = c.actions
    for chunk in c.chunks:
        actions.append(Release(chunk[2]))
    c.chunks.clear()
    c.send_index = 0
    for buf in c.reassembly.clear():
        actions.append(Discard(buf))
    c.board.clear()


def guest_reset(c: Tcb) -> None:
    """An acceptable RST arrived."""
    finish(c, tell_host=True, tell_guest=False)


def fin_taken(c: Tcb, now: float) -> None:
    """The guest's FIN was reached (RFC 9293 3.10.7.4, eighth)."""
    c.actions.append(HOST_SHUTDOWN)
    state = c.state
    if state in (SYN_RECEIVED, ESTABLISHED):
        c.state = CLOSE_WAIT
    elif state == FIN_WAIT_1:
        # Had our FIN been acknowledged, the state would be FIN-WAIT-2 already.
        c.state = CLOSING
    elif state == FIN_WAIT_2:
        enter_time_wait(c, now)


def fin_acknowledged(c: Tcb, now: float) -> None:
    """snd_una has passed our FIN (RFC 9293 3.10.7.4, fifth)."""
    state = c.state
    if state == FIN_WAIT_1:
        c.state = FIN_WAIT_2
        if c.host_closed:
            c.timers[LINGER] = now + c.cfg.fin_wait_2
    elif state == CLOSING:
        enter_time_wait(c, now)
    elif state == LAST_ACK:
        finish(c, tell_host=False, tell_guest=False)


def enter_time_wait(c: Tcb, now: float) -> None:
    """Both directions have ended; answer retransmitted FINs for a while (RFC 9293 3.6.1)."""
    c.state = TIME_WAIT
    give_back(c)
    c.timers = all_off()
    c.timers[LINGER] = now + c.cfg.time_wait


def accepts_reuse(c: Tcb, seg: Segment) -> bool:
    """Whether seg is a SYN that may replace this connection (TIME-WAIT: RFC 9293 MAY-2, RFC 6191; CLOSED).

    False for any other segment. True when it is surely newer: a later timestamp, or a sequence
    number after all that was received. The stage then deletes this connection and opens a new
    one whose ISN must be beyond ours, which RFC 6528's clock gives it.
    """
    if not opens(seg.flags):
        return False
    if c.state != TIME_WAIT:
        return c.state == CLOSED
    if c.ts_ok and seg.has_ts and c.ts_recent != seg.ts_val:
        return lt(c.ts_recent, seg.ts_val)
    return unwrap(seg.seq, c.rcv_nxt) > c.rcv_nxt
