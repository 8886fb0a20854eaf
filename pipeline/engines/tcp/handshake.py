"""Opens a connection: SYN, SYN-ACK, and the options that both sides agree on.

RFC 9293 sections 3.5, 3.7.1, 3.10.7.2, 3.10.7.3; RFC 7323 sections 1.3, 2.2, 3.2; RFC 2018 section 2; RFC
6691. An option is used if both SYNs have it. Our SYN-ACK has only options that the guest's SYN has.

The window of a SYN is never scaled. Data in a SYN are neither used nor acknowledged, so the guest sends them
again after the handshake (RFC 9293 3.10.7.2 allows that).
"""

from pipeline.engines.tcp.actions import Established, Outgoing
from pipeline.engines.tcp.closing import guest_reset
from pipeline.engines.tcp.config import DEFAULT_MSS
from pipeline.engines.tcp.receiver import UNSCALED_WINDOW
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import MASK, unwrap
from pipeline.engines.tcp.state import ESTABLISHED, FIN_WAIT_1, SYN_RECEIVED, SYN_SENT
from pipeline.engines.tcp.tcb import Tcb
from pipeline.engines.tcp.timers import LINGER, NEVER, RTO
from pipeline.wire.tcp import ACK, RST, SYN


def accept_syn(c: Tcb, seg: Segment, now: float) -> None:
    """Read the guest's SYN (or SYN-ACK): its sequence number, window and options."""
    options = c.options
    options.agree(c.cfg, seg)
    c.rcv.syn_arrived(seg, options, now)
    c.snd.syn_arrived(seg, options.scaling)
    c.set_mss(seg.mss or DEFAULT_MSS)
    c.cc.restart(c.snd.snd_mss, c.cfg.initial_window_segments)


def syn_arrived_in_syn_sent(c: Tcb, seg: Segment, now: float) -> str | None:
    """SEGMENT ARRIVES in SYN-SENT (RFC 9293 3.10.7.3). The caller discards seg.buf."""
    flags = seg.flags
    snd = c.snd
    ack = unwrap(seg.ack, snd.snd_una)
    if flags & ACK and not (snd.iss < ack <= snd.snd_nxt):
        if not flags & RST:
            c.queue_reset(seg.ack)
        return "tcp_segment_dropped_bad_ack"
    if flags & RST:
        if not flags & ACK:
            return "tcp_segment_dropped_bad_reset"
        guest_reset(c)
        return None
    if not flags & SYN:
        return "tcp_segment_dropped_no_ack"
    accept_syn(c, seg, now)
    if flags & ACK:
        establish(c, c.rcv.irs, ack, seg, now)
        c.rcv.ack_soon()
    else:
        # Simultaneous open: send our SYN again, as a SYN-ACK.
        c.enter(SYN_RECEIVED)
        c.send_syn()
    return None


def establish(c: Tcb, start: int, ack: int, seg: Segment, now: float) -> None:
    """Both SYNs are acknowledged: enter ESTABLISHED, or FIN-WAIT-1 if the host has ended already."""
    snd = c.snd
    agenda = c.agenda
    c.enter(FIN_WAIT_1 if snd.fin_queued else ESTABLISHED)
    agenda.timers[LINGER] = NEVER
    snd.established(start, ack, seg)
    c.recovery.established(c.opening.syn_retransmits, c.opening.syn_sent_at, seg, now)
    c.probing.start_keepalive(now)
    agenda.actions.append(Established(c.is_active))
    if snd.snd_nxt < snd.send_end:
        agenda.transmit_soon()


def syn_segment(c: Tcb, now: float) -> Outgoing:
    """Our SYN (in SYN-SENT) or SYN-ACK (in SYN-RECEIVED) with its options. Starts the RTO timer."""
    cfg = c.cfg
    rcv = c.rcv
    options = c.options
    wnd = min(rcv.capacity, UNSCALED_WINDOW)
    c.opening.syn_sent(c.snd.syn_sent(), now)
    c.agenda.timers[RTO] = now + c.rtt.rto
    if c.state == SYN_SENT:
        ack, flags, ts_ecr = 0, SYN, 0
        shift = cfg.window_shift if cfg.window_scaling else -1
    else:
        ack, flags, ts_ecr = rcv.rcv_nxt & MASK, SYN | ACK, rcv.ts_recent
        shift = rcv.rcv_wind_shift if options.scaling else -1
        rcv.syn_ack_sent(wnd)
    ts_val = int(now * 1000) & MASK if options.ts_ok else 0
    header = (ack, wnd, ts_val, ts_ecr, options.ts_ok, (), cfg.rcv_mss)
    return Outgoing(c.snd.iss, flags, header, None, 0, 0, (shift, options.sack_ok))
