"""Closes a connection with FINs in both directions and TIME-WAIT, and answers segments without a connection.

RFC 9293 sections 3.6, 3.10.4, 3.10.7; RFC 6191 (reuse of TIME-WAIT). Tcb.finish() ends a connection at once.
"""

from pipeline.engines.tcp.actions import HOST_SHUTDOWN, Outgoing
from pipeline.engines.tcp.ending import GUEST_FIN, GUEST_RESET, HOST_FIN
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
    TIME_WAIT,
)
from pipeline.engines.tcp.tcb import Tcb, reset
from pipeline.engines.tcp.timers import LINGER
from pipeline.wire.tcp import ACK, FIN, RST, SYN


def opens(flags: int) -> bool:
    """Whether a segment without a connection opens one: it has SYN and neither ACK, RST nor FIN."""
    return flags & (SYN | ACK | RST | FIN) == SYN


def reset_for(seg: Segment) -> Outgoing | None:
    """The reset that answers a segment without a connection (RFC 9293 section 3.10.7.1).

    A reset gets no answer: None. The caller frees seg.buf.
    """
    if seg.flags & RST:
        return None
    if seg.flags & ACK:
        return reset(seg.ack, 0, RST)
    return reset(0, (seg.seq + seg_len(seg)) & MASK, RST | ACK)


def guest_reset(c: Tcb) -> None:
    """An acceptable RST arrived."""
    c.finish(GUEST_RESET, tell_host=True, tell_guest=False)


def host_ended(c: Tcb) -> None:
    """The host sends no more (CLOSE, RFC 9293 3.10.4): our FIN follows the queued data."""
    if c.snd.fin_queued or c.state in (CLOSED, TIME_WAIT):
        return
    c.snd.enqueue_fin()
    c.fin_first(HOST_FIN)
    if c.state == ESTABLISHED:
        c.enter(FIN_WAIT_1)
    elif c.state == CLOSE_WAIT:
        c.enter(LAST_ACK)
    else:
        # In SYN-SENT and SYN-RECEIVED handshake.establish() enters FIN-WAIT-1 later.
        return
    c.agenda.transmit_soon()


def fin_taken(c: Tcb, now: float) -> None:
    """All bytes before the guest's FIN have arrived (RFC 9293 3.10.7.4, eighth)."""
    c.agenda.actions.append(HOST_SHUTDOWN)
    c.fin_first(GUEST_FIN)
    state = c.state
    if state in (SYN_RECEIVED, ESTABLISHED):
        c.enter(CLOSE_WAIT)
    elif state == FIN_WAIT_1:
        # Our FIN is not acknowledged: otherwise the state would be FIN-WAIT-2.
        c.enter(CLOSING)
    elif state == FIN_WAIT_2:
        _enter_time_wait(c, now)


def fin_acknowledged(c: Tcb, now: float) -> None:
    """snd_una has passed our FIN (RFC 9293 3.10.7.4, fifth)."""
    state = c.state
    if state == FIN_WAIT_1:
        c.enter(FIN_WAIT_2)
        limit_fin_wait_2(c, now)
    elif state == CLOSING:
        _enter_time_wait(c, now)
    elif state == LAST_ACK:
        c.finish(c.end, tell_host=False, tell_guest=False)


def limit_fin_wait_2(c: Tcb, now: float) -> None:
    """If the host socket is closed, limit the time that the guest has for its FIN."""
    if c.state == FIN_WAIT_2 and c.host_closed:
        c.agenda.timers[LINGER] = now + c.cfg.fin_wait_2


def _enter_time_wait(c: Tcb, now: float) -> None:
    """Both directions have ended. Answer retransmitted FINs until time_wait has passed (RFC 9293 3.6.1)."""
    c.enter(TIME_WAIT)
    c.give_back()
    c.agenda.stop_timers()
    c.agenda.timers[LINGER] = now + c.cfg.time_wait


def accepts_reuse(c: Tcb, seg: Segment) -> bool:
    """Whether seg is a SYN that may replace this connection, which is in TIME-WAIT or CLOSED.

    In TIME-WAIT (RFC 9293 MAY-2, RFC 6191) the SYN must be newer than the connection: it has a later
    timestamp, or a sequence number after all that was received. The stage then deletes this connection and
    opens a new one. The new ISN must be beyond our sequence numbers, which RFC 6528's clock ensures.
    """
    if not opens(seg.flags):
        return False
    if c.state != TIME_WAIT:
        return c.state == CLOSED
    return is_newer(seg, c.options.ts_ok, c.rcv.ts_recent, c.rcv.rcv_nxt)


def is_newer(seg: Segment, ts_ok: bool, ts_recent: int, rcv_nxt: int) -> bool:
    """Whether a SYN is newer than a connection with these variables."""
    if ts_ok and seg.has_ts and ts_recent != seg.ts_val:
        return lt(ts_recent, seg.ts_val)
    return unwrap(seg.seq, rcv_nxt) > rcv_nxt
