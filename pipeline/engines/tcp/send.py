"""Sending: which ranges may leave now, and the ACK that goes with them.

RFC 9293 sections 3.8.4 (data), 3.8.6.1 (zero window), 3.8.6.2.1 (silly windows), 3.7.4 (Nagle);
RFC 6675 section 5 (recovery); RFC 8985 section 7.3 (tail-loss probe).

The stage pulls: one call a burst, so that one ACK covers all that arrived in it. A range is
up to 64 KiB of one handle and is cut at a multiple of the MSS, except at the handle's end,
where PSH says that the host had no more at that moment. FIN rides on the last data.
"""

from pipeline.engines.tcp import rack, receive
from pipeline.engines.tcp.actions import Outgoing
from pipeline.engines.tcp.seq import MASK
from pipeline.engines.tcp.state import ESTABLISHED, NO_POSITION, TIME_WAIT, Tcb
from pipeline.engines.tcp.timers import DELAYED_ACK, NEVER, PERSIST, PTO, RTO
from pipeline.wire.tcp import ACK, FIN, PSH

MAX_SACK_BLOCKS = 3
MAX_DUPLICATE_ACKS = 3
SACK_OPTION_BYTES = 4
SACK_BLOCK_BYTES = 8

Header = tuple[int, int, int, int, bool, tuple[tuple[int, int], ...]]
"""ack, wnd, ts_val, ts_ecr, has_ts, sack: what all segments of one call share."""


def transmit(c: Tcb, now: float, max_ranges: int, out: list[Outgoing]) -> None:
    """Append what may leave now, at most max_ranges entries in out. In SYN-RECEIVED only an ACK may."""
    if max_ranges <= 0:
        return
    c.wants_transmit = False
    shown = c.rcv_adv, c.dsack
    sack: tuple[tuple[int, int], ...] = ()
    mss = c.snd_mss
    if c.sack_ok:
        if c.reassembly.ranges:
            sack = c.reassembly.sack_blocks()
        if c.dsack is not None:
            sack = (c.dsack, *sack[: MAX_SACK_BLOCKS - 1])
            c.dsack = None
        if sack:
            mss -= SACK_OPTION_BYTES + SACK_BLOCK_BYTES * len(sack)
    has_ts = c.ts_ok
    header = (
        c.rcv_nxt & MASK,
        receive.advertise(c),
        int(now * 1000) & MASK if has_ts else 0,
        c.ts_recent if has_ts else 0,
        has_ts,
        sack,
    )
    if c.board.lost_bytes:
        _retransmit_lost(c, now, max_ranges, out, header, mss)
    if c.tlp_due and len(out) < max_ranges:
        _tail_loss_probe(c, now, out, header, mss)
    if c.snd_nxt < c.send_end and c.state >= ESTABLISHED:
        if len(out) < max_ranges:
            _send_new(c, now, max_ranges, out, header, mss, False)
        else:
            c.wants_transmit = True
    if c.probe_due and len(out) < max_ranges:
        # Out of the window on purpose, so that the peer must answer (RFC 9293 3.8.4).
        c.probe_due = False
        if not out:
            out.append(_bare(c, (c.snd_una - 1) & MASK, header))
    if not out:
        if not c.ack_now:
            # Nobody was told.
            c.rcv_adv, c.dsack = shown
            return
        ack = _bare(c, c.snd_nxt & MASK, header)
        out.append(ack)
        if c.dup_acks_owed > 1 and not c.sack_ok:
            # Without SACK only their number tells the peer of the loss (RFC 5681 4.2).
            copies = min(c.dup_acks_owed, MAX_DUPLICATE_ACKS, max_ranges)
            out.extend([ack] * (copies - 1))
    elif now - c.data_received_at < c.cfg.delayed_ack and out[-1].length:
        # Data answer data: the next ACK may wait a moment for the next answer to ride on.
        c.interactive = True
    c.ack_now = c.ack_owed = False
    c.dup_acks_owed = 0
    c.taken_bytes = 0
    c.last_ack_sent = c.rcv_nxt
    c.timers[DELAYED_ACK] = NEVER
    if c.rcv_nxt >= c.turn_edge and c.rcv_adv > shown[0]:
        receive.edge_shown(c, now)


def _bare(c: Tcb, seq: int, header: Header) -> Outgoing:
    ack, wnd, ts_val, ts_ecr, has_ts, sack = header
    return Outgoing(seq, ack, ACK, wnd, ts_val, ts_ecr, has_ts, sack, None, 0, 0, c.snd_mss)


def _send_new(
    c: Tcb, now: float, max_ranges: int, out: list[Outgoing], header: Header, mss: int, probe: bool
) -> None:
    """Send from snd_nxt on. probe: two segments beyond cwnd (tail-loss probe)."""
    ack, wnd, ts_val, ts_ecr, has_ts, sack = header
    snd_nxt = c.snd_nxt
    una = c.snd_una
    board = c.board
    timers = c.timers
    cwnd = c.cc.cwnd
    if snd_nxt == una and now - c.last_sent_at > c.rtt.rto:
        c.cc.on_idle()
        cwnd = c.cc.cwnd
    usable = una + c.snd_wnd - snd_nxt
    room = cwnd - (c.pipe() if c.trouble else snd_nxt - una)
    if probe:
        # Two, not RFC 8985's one: if only the ACK was lost, the peer would hold its answer to one.
        room = 2 * mss
        max_ranges = len(out) + 1
    first = snd_nxt
    queue_end = c.queue_end
    max_bytes = c.cfg.max_range_bytes
    chunks = c.chunks
    limited = False
    # The end of the stream waits for nothing.
    nagle = c.cfg.nagle and not c.fin_queued
    while snd_nxt < queue_end:
        if len(out) >= max_ranges:
            c.wants_transmit |= not probe
            break
        chunk = chunks[c.send_index]
        left = size = chunk[1] - snd_nxt
        limit = usable if usable < room else room
        if limit > max_bytes:
            limit = max_bytes
        if size > limit:
            if limit < mss:
                if limit <= 0 or limit == room or not (c.force_send or 2 * limit >= c.max_snd_wnd):
                    limited = room < mss and room <= usable
                    break
                size = limit
            else:
                size = limit - limit % mss
        if size < mss and nagle and snd_nxt > una and size == left:
            break
        seq = snd_nxt & MASK
        off = chunk[3] + snd_nxt - chunk[0]
        snd_nxt += size
        flags = ACK
        if size == left:
            flags = ACK | PSH
            c.send_index += 1
            if snd_nxt == queue_end and c.fin_queued and usable > size:
                flags = ACK | PSH | FIN
        out.append(Outgoing(seq, ack, flags, wnd, ts_val, ts_ecr, has_ts, sack, chunk[2], off, size, mss))
        usable -= size
        room -= size
        c.force_send = False
        if flags & FIN:
            snd_nxt += 1
            break
    if snd_nxt == queue_end and c.fin_queued:
        if len(out) >= max_ranges:
            c.wants_transmit |= not probe
        elif usable > 0:
            out.append(
                Outgoing(snd_nxt & MASK, ack, ACK | FIN, wnd, ts_val, ts_ecr, has_ts, sack, None, 0, 0, mss)
            )
            snd_nxt += 1
    if snd_nxt > first:
        c.snd_nxt = snd_nxt
        board.sent(first, snd_nxt, now)
        c.last_sent_at = now
        c.persist_backoff = 0
        timers[PERSIST] = NEVER
        if timers[RTO] == NEVER:
            timers[RTO] = now + c.rtt.rto
        rack.arm_probe(c, now)
        if not limited and c.cc.cwnd < c.cc.ssthresh:
            # As Linux: in slow start using half of cwnd is enough to let it grow.
            limited = 2 * (snd_nxt - una) >= c.cc.cwnd
        c.cwnd_limited = limited
    elif limited:
        c.cwnd_limited = True
    if snd_nxt < c.send_end and not c.wants_transmit and snd_nxt == una and timers[PERSIST] == NEVER:
        # Nothing in flight whose ACK would bring us back here.
        timers[PERSIST] = now + c.rtt.backed_off(c.persist_backoff)


def _retransmit_lost(
    c: Tcb, now: float, max_ranges: int, out: list[Outgoing], header: Header, mss: int
) -> None:
    """Send lost ranges again, lowest first, while pipe is under cwnd (RFC 6675 section 5, step C)."""
    board = c.board
    ranges = board.ranges
    edge = c.snd_una + c.snd_wnd
    chunk_index = 0
    chunks = c.chunks
    index = 0
    room = c.cc.cwnd - c.pipe()
    while index < len(ranges):
        sent = ranges[index]
        if not sent.lost:
            index += 1
            continue
        if len(out) >= max_ranges:
            c.wants_transmit = True
            break
        if c.fast_retransmit and room < mss:
            room = mss
        start = sent.start
        while chunk_index < len(chunks) and chunks[chunk_index][1] <= start:
            chunk_index += 1
        limit = room
        if start == c.snd_una:
            # Always one segment, even when the peer has shrunk its window.
            limit = min(limit, max(edge - start, mss))
        else:
            limit = min(limit, edge - start)
        size = _resend(c, start, sent.end, chunk_index, limit, out, header, mss)
        if size == 0:
            break
        c.fast_retransmit = False
        room -= size
        board.retransmitted(index, start + size, now)
        c.retransmitted_bytes += size
        if c.undo_cwnd and c.undo_ts == NO_POSITION:
            c.undo_ts = int(now * 1000) & MASK
        index += 1
    c.last_sent_at = now
    if c.timers[RTO] == NEVER:
        c.timers[RTO] = now + c.rtt.rto
    rack.arm_probe(c, now)


def _resend(
    c: Tcb,
    start: int,
    end: int,
    chunk_index: int,
    limit: int,
    out: list[Outgoing],
    header: Header,
    mss: int,
) -> int:
    """Append one range from position start; the positions it covers, 0 if limit forbids it."""
    ack, wnd, ts_val, ts_ecr, has_ts, sack = header
    queue_end = c.queue_end
    if start >= queue_end:
        out.append(Outgoing(start & MASK, ack, ACK | FIN, wnd, ts_val, ts_ecr, has_ts, sack, None, 0, 0, mss))
        return 1
    chunk_start, chunk_end, buf, off = c.chunks[chunk_index]
    size = min(end, chunk_end) - start
    limit = min(limit, c.cfg.max_range_bytes)
    if size > limit:
        if limit < mss:
            return 0
        size = limit - limit % mss
    flags = ACK
    covered = size
    if start + size == chunk_end:
        flags |= PSH
        if chunk_end == queue_end and end > queue_end:
            flags |= FIN
            covered += 1
    out.append(
        Outgoing(
            start & MASK,
            ack,
            flags,
            wnd,
            ts_val,
            ts_ecr,
            has_ts,
            sack,
            buf,
            off + start - chunk_start,
            size,
            mss,
        )
    )
    return covered


def _tail_loss_probe(c: Tcb, now: float, out: list[Outgoing], header: Header, mss: int) -> None:
    c.tlp_due = False
    ranges = c.board.ranges
    if not ranges or c.state == TIME_WAIT:
        return
    before = len(out)
    c.tlp_is_retrans = False
    if c.snd_nxt < c.send_end:
        _send_new(c, now, len(out) + 1, out, header, mss, True)
    if len(out) == before:
        last = ranges[-1]
        if last.sacked or last.end > c.snd_una + c.snd_wnd:
            return
        data_end = min(c.snd_nxt, c.queue_end)
        chunks = c.chunks
        index = c.send_index
        if index == len(chunks) or chunks[index][0] >= data_end:
            index -= 1
        start = max(last.start, data_end - mss)
        if index >= 0:
            start = max(start, min(chunks[index][0], data_end))
        size = _resend(c, start, last.end, index, mss, out, header, mss)
        if size == 0:
            return
        c.board.tail_retransmitted(start, now)
        c.tlp_is_retrans = True
        c.retransmitted_bytes += size
    c.tlp_end_seq = c.snd_nxt
    c.timers[PTO] = NEVER
    c.timers[RTO] = now + c.rtt.rto
