"""Opening: SYN and SYN-ACK, and what their options agree on.

RFC 9293 sections 3.5, 3.7.1, 3.10.7.2, 3.10.7.3; RFC 7323 sections 1.3, 2.2, 3.2; RFC 2018
section 2; RFC 6691. An option is in use when both SYNs carried it; our SYN-ACK offers only
what the guest's SYN offered.

The window of a SYN is never scaled. Data in a SYN are not taken: they are not acknowledged
either, so the guest sends them again behind the handshake (RFC 9293 3.10.7.2 allows it).
"""

from typing import Final

from pipeline.engines.tcp.actions import Established, Outgoing
from pipeline.engines.tcp.closing import guest_reset, queue_reset
from pipeline.engines.tcp.config import DEFAULT_MSS, IP_TCP_HEADER_BYTES, MIN_MSS
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.seq import MASK, unwrap
from pipeline.engines.tcp.state import ESTABLISHED, FIN_WAIT_1, SYN_RECEIVED, SYN_SENT, Tcb
from pipeline.engines.tcp.timers import KEEPALIVE, LINGER, NEVER, RTO
from pipeline.wire.tcp import ACK, RST, SYN
from pipeline.wire.tcp_options import MAX_WINDOW_SCALE, TIMESTAMPS_LEN

UNSCALED_WINDOW: Final = 65535
RTO_AFTER_LOST_SYN: Final = 3.0
"""Seconds (RFC 6298 section 5.7)."""


def accept_syn(c: Tcb, seg: Segment, now: float) -> None:
    """Read the guest's SYN (or SYN-ACK): its sequence number, window and options."""
    cfg = c.cfg
    c.irs = seg.seq & MASK
    c.rcv_nxt = c.irs + 1
    c.last_ack_sent = c.rcv_nxt
    c.rcv_adv = c.rcv_nxt
    c.ts_ok = cfg.timestamps and seg.has_ts
    if c.ts_ok:
        c.ts_recent = seg.ts_val
        c.ts_recent_at = now
    c.sack_ok = cfg.sack and seg.sack_permitted
    c.scaling = cfg.window_scaling and seg.wscale >= 0
    if c.scaling:
        c.snd_wind_shift = min(seg.wscale, MAX_WINDOW_SCALE)
        c.rcv_wind_shift = cfg.window_shift
    else:
        c.snd_wind_shift = 0
        c.rcv_wind_shift = 0
        c.rcv_limit = min(c.rcv_limit, UNSCALED_WINDOW)
    c.rcv_capacity = min(c.rcv_capacity, c.rcv_limit)
    c.snd_wnd = c.max_snd_wnd = seg.wnd
    set_mss(c, seg.mss or DEFAULT_MSS)
    c.cc.cwnd = c.cc.initial_window = cfg.initial_window_segments * c.snd_mss


def set_mss(c: Tcb, mss: int) -> None:
    """Send.MSS from the peer's option: never under the floor, never over our own link (RFC 9293 3.7.1)."""
    mss = min(max(mss, MIN_MSS), c.cfg.mtu - IP_TCP_HEADER_BYTES)
    c.snd_mss = mss - TIMESTAMPS_LEN if c.ts_ok else mss
    c.cc.set_mss(c.snd_mss)


def syn_arrived_in_syn_sent(c: Tcb, seg: Segment, now: float) -> str | None:
    """SEGMENT ARRIVES in SYN-SENT (RFC 9293 3.10.7.3). seg.buf stays the caller's to discard."""
    flags = seg.flags
    ack = unwrap(seg.ack, c.snd_una)
    if flags & ACK and not (c.iss < ack <= c.snd_nxt):
        if not flags & RST:
            queue_reset(c, seg.ack)
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
        c.snd_una = ack
        establish(c, c.irs, ack, seg, now)
        c.ack_now = c.wants_transmit = True
    else:
        # Simultaneous open: our SYN again, now as a SYN-ACK.
        c.state = SYN_RECEIVED
        c.syn_due = c.wants_transmit = True
    return None


def establish(c: Tcb, start: int, ack: int, seg: Segment, now: float) -> None:
    """Our SYN is acknowledged and theirs was read: ESTABLISHED, or on to FIN-WAIT-1 if the host closed."""
    c.state = FIN_WAIT_1 if c.fin_queued else ESTABLISHED
    c.snd_una = c.iss + 1
    c.snd_wl1 = start
    c.snd_wl2 = ack
    c.snd_wnd = seg.wnd if seg.flags & SYN else seg.wnd << c.snd_wind_shift
    c.max_snd_wnd = max(c.max_snd_wnd, c.snd_wnd)
    c.retransmits = 0
    timers = c.timers
    timers[RTO] = NEVER
    timers[LINGER] = NEVER
    if c.syn_retransmits == 0:
        c.rtt.sample(now - c.syn_sent_at, now)
    else:
        if c.ts_ok and seg.has_ts and seg.ts_ecr:
            # The echo tells which copy was answered.
            elapsed = (int(now * 1000) - seg.ts_ecr) & MASK
            c.rtt.sample(min(elapsed, 60_000) / 1000, now)
        else:
            c.rtt.restart(RTO_AFTER_LOST_SYN)
        # RFC 5681 3.1 (one lost SYN is forgiven, as in Linux).
        if c.syn_retransmits > 1:
            c.cc.on_syn_loss()
    c.rtt_mark = c.snd_nxt
    c.rack_fack = c.snd_una
    c.last_received_at = now
    if c.cfg.keepalive:
        timers[KEEPALIVE] = now + c.cfg.keepalive_idle
    c.actions.append(Established(c.is_active))
    if c.snd_nxt < c.send_end:
        c.wants_transmit = True


def syn_segment(c: Tcb, now: float) -> Outgoing:
    """Our SYN (SYN-SENT) or SYN-ACK (SYN-RECEIVED), with the options; starts its timer."""
    cfg = c.cfg
    wnd = min(c.rcv_capacity, UNSCALED_WINDOW)
    ts_val = int(now * 1000) & MASK if c.ts_ok else 0
    if c.snd_nxt == c.iss:
        c.snd_nxt = c.iss + 1
        c.syn_sent_at = now
    c.timers[RTO] = now + c.rtt.rto
    c.syn_due = False
    if c.state == SYN_SENT:
        shift = cfg.window_shift if cfg.window_scaling else -1
        return Outgoing(c.iss, 0, SYN, wnd, ts_val, 0, c.ts_ok, (), None, 0, 0, cfg.rcv_mss, shift, c.sack_ok)
    shift = c.rcv_wind_shift if c.scaling else -1
    c.rcv_adv = max(c.rcv_adv, c.rcv_nxt + wnd)
    c.last_ack_sent = c.rcv_nxt
    c.ack_now = False
    return Outgoing(
        c.iss,
        c.rcv_nxt & MASK,
        SYN | ACK,
        wnd,
        ts_val,
        c.ts_recent,
        c.ts_ok,
        (),
        None,
        0,
        0,
        cfg.rcv_mss,
        shift,
        c.sack_ok,
    )
