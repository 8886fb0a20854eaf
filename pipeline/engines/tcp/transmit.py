"""Decides what a connection sends now: retransmissions, probes, new data, and the ACK with them.

RFC 9293 sections 3.8.4 (data), 3.8.6.1 (zero window), 3.8.6.2.1 (silly windows), 3.7.4 (Nagle); RFC 6675
section 5 (recovery); RFC 8985 section 7.3 (tail-loss probe).

The stage calls transmit() once after a burst, so that one ACK covers all segments of the burst. A range has
up to 64 KiB of one handle, a multiple of the MSS. Only the range at the end of a handle may be shorter. It
has PSH, because the host had no more bytes at that moment. The FIN is sent with the last data.
"""

from typing import Final

from pipeline.engines.tcp.actions import Header, Outgoing
from pipeline.engines.tcp.seq import MASK
from pipeline.engines.tcp.state import ESTABLISHED, TIME_WAIT
from pipeline.engines.tcp.tcb import Tcb
from pipeline.wire.tcp import ACK, FIN, PSH

MAX_DUPLICATE_ACKS: Final = 3
SACK_OPTION_BYTES: Final = 4
SACK_BLOCK_BYTES: Final = 8
PROBE_SEGMENTS: Final = 2
"""Segments of new data in a tail-loss probe. RFC 8985 sends one, but a peer may delay the ACK of one."""


class Burst:
    """The state of one call of transmit(): the fields that its segments share, and the list of them."""

    __slots__ = ("_header", "max_ranges", "mss", "now", "out")

    def __init__(self, now: float, max_ranges: int, out: list[Outgoing], header: Header) -> None:
        self.now = now
        self.max_ranges = max_ranges
        self.out = out
        self.mss = header[6]
        """Payload of a full segment with the options of this burst."""
        self._header = header

    def full(self) -> bool:
        """Whether this call may send no more ranges."""
        return len(self.out) >= self.max_ranges

    def add(self, seq: int, flags: int, buf: object, off: int, size: int) -> None:
        """Append bytes [off, off + size) of buf, or a segment without data."""
        self.out.append(Outgoing(seq & MASK, flags, self._header, buf, off, size))


def transmit(c: Tcb, now: float, max_ranges: int, out: list[Outgoing]) -> None:
    """Append what to send now to out, which then has at most max_ranges (at least one) entries.

    In SYN-RECEIVED that is at most an ACK.
    """
    rcv = c.rcv
    snd = c.snd
    c.agenda.transmit_begins()
    rcv_adv = rcv.rcv_adv
    burst = _begin(c, now, max_ranges, out)
    if snd.board.lost_bytes:
        _retransmit_lost(c, burst)
    if c.rack.tlp_due and not burst.full():
        _tail_loss_probe(c, burst)
    if snd.snd_nxt < snd.send_end and c.state >= ESTABLISHED:
        if burst.full():
            c.agenda.transmit_soon()
        else:
            _send_new(c, burst)
    if c.probing.probe_due and not burst.full():
        # The sequence number is outside the peer's window, so that the peer must answer (RFC 9293 3.8.4).
        c.probing.probe_sent()
        if not out:
            burst.add(snd.snd_una - 1, ACK, None, 0, 0)
    if not out:
        if not rcv.ack_now:
            rcv.nothing_sent(rcv_adv)
            return
        burst.add(snd.snd_nxt, ACK, None, 0, 0)
        if rcv.dup_acks_owed > 1 and not c.options.sack_ok:
            # Without SACK the peer detects the loss by the number of duplicate ACKs (RFC 5681 4.2).
            copies = min(rcv.dup_acks_owed, MAX_DUPLICATE_ACKS, max_ranges)
            out.extend([out[0]] * (copies - 1))
    elif out[-1].length:
        rcv.data_sent(now)
    rcv.ack_sent(rcv_adv, now)


def _begin(c: Tcb, now: float, max_ranges: int, out: list[Outgoing]) -> Burst:
    """The fields that all segments of this call share: ACK, window, timestamps and SACK blocks."""
    rcv = c.rcv
    options = c.options
    mss = c.snd.snd_mss
    sack: tuple[tuple[int, int], ...] = ()
    if options.sack_ok and (rcv.reassembly.ranges or rcv.dsack is not None):
        sack = rcv.sack_blocks()
        mss -= SACK_OPTION_BYTES + SACK_BLOCK_BYTES * len(sack)
    ts_val = int(now * 1000) & MASK if options.ts_ok else 0
    ts_ecr = rcv.ts_recent if options.ts_ok else 0
    header = (rcv.rcv_nxt & MASK, rcv.advertise(), ts_val, ts_ecr, options.ts_ok, sack, mss)
    return Burst(now, max_ranges, out, header)


def _send_new(c: Tcb, burst: Burst) -> None:
    """Send from snd_nxt on, as far as the windows allow. If data remain, ask for another call or a probe."""
    snd = c.snd
    now = burst.now
    idle = snd.snd_nxt == snd.snd_una
    if idle and now - snd.last_sent_at > c.rtt.rto:
        c.cc.on_idle()
    sent = _send_ranges(c, burst, c.recovery.room(), burst.max_ranges)
    if snd.snd_nxt == snd.send_end:
        return
    if burst.full():
        c.agenda.transmit_soon()
    elif idle and not sent:
        # Nothing is in flight, so no ACK will trigger the next call.
        c.probing.data_wait(now)


def _send_ranges(c: Tcb, burst: Burst, room: int, max_ranges: int) -> bool:
    """Send from snd_nxt on, within room bytes and the peer's window. Returns whether anything was sent."""
    snd = c.snd
    out = burst.out
    mss = burst.mss
    max_bytes = c.cfg.max_range_bytes
    chunks = snd.chunks
    index = snd.send_index
    queue_end = snd.queue_end
    fin = snd.fin_queued
    snd_nxt = snd.snd_nxt
    usable = snd.snd_una + snd.snd_wnd - snd_nxt
    force = c.probing.force_send
    # Nagle does not delay the end of the stream.
    nagle = c.cfg.nagle and not fin
    limited = False
    while snd_nxt < queue_end and len(out) < max_ranges:
        chunk = chunks[index]
        left = size = chunk.end - snd_nxt
        limit = min(usable, room)
        limit = min(limit, max_bytes)
        if size > limit:
            if limit >= mss:
                size = limit - limit % mss
            elif 0 < limit != room and (force or 2 * limit >= snd.max_snd_wnd):
                size = limit
            else:
                limited = room < mss and room <= usable
                break
        if nagle and size < mss and snd_nxt > snd.snd_una and size == left:
            break
        flags = ACK
        if size == left:
            index += 1
            rides = fin and chunk.end == queue_end and usable > size
            flags = ACK | PSH | FIN if rides else ACK | PSH
        burst.add(snd_nxt, flags, chunk.buf, chunk.off + snd_nxt - chunk.start, size)
        snd_nxt += size + 1 if flags & FIN else size
        usable -= size
        room -= size
        force = False
    if fin and snd_nxt == queue_end and usable > 0 and len(out) < max_ranges:
        burst.add(snd_nxt, ACK | FIN, None, 0, 0)
        snd_nxt += 1
    if snd_nxt == snd.snd_nxt:
        if limited:
            c.recovery.cwnd_is_full()
        return False
    snd.sent(snd_nxt, index, burst.now)
    c.probing.data_sent()
    c.recovery.data_sent(limited, burst.now)
    return True


def _retransmit_lost(c: Tcb, burst: Burst) -> None:
    """Send lost ranges again, lowest first, while pipe is under cwnd (RFC 6675 section 5, step C)."""
    snd = c.snd
    recovery = c.recovery
    board = snd.board
    ranges = board.ranges
    mss = burst.mss
    edge = snd.snd_una + snd.snd_wnd
    chunk_index = 0
    index = 0
    room = c.cc.cwnd - recovery.pipe()
    while index < len(ranges):
        sent = ranges[index]
        if not sent.lost:
            index += 1
            continue
        if burst.full():
            c.agenda.transmit_soon()
            break
        if recovery.fast_retransmit and room < mss:
            room = mss
        start = sent.start
        chunk_index = snd.chunk_at(start, chunk_index)
        limit = edge - start
        if start == snd.snd_una and limit < mss:
            # Send one segment even if the peer has shrunk its window.
            limit = mss
        size = _resend(c, burst, start, sent.end, chunk_index, min(limit, room))
        if size == 0:
            break
        room -= size
        board.retransmitted(index, start + size, burst.now)
        recovery.range_retransmitted(burst.now)
        index += 1
    snd.retransmitted(burst.now)
    recovery.retransmitted(burst.now)


def _resend(c: Tcb, burst: Burst, start: int, end: int, chunk_index: int, limit: int) -> int:
    """Append one range from position start. Returns the number of its positions, 0 if limit forbids it."""
    mss = burst.mss
    queue_end = c.snd.queue_end
    if start >= queue_end:
        c.snd.resend(1)
        burst.add(start, ACK | FIN, None, 0, 0)
        return 1
    chunk = c.snd.chunks[chunk_index]
    size = min(end, chunk.end) - start
    limit = min(limit, c.cfg.max_range_bytes)
    if size > limit:
        if limit < mss:
            return 0
        size = limit - limit % mss
    flags = ACK
    covered = size
    if start + size == chunk.end:
        flags |= PSH
        if chunk.end == queue_end and end > queue_end:
            flags |= FIN
            covered += 1
    c.snd.resend((size + mss - 1) // mss)
    burst.add(start, flags, chunk.buf, chunk.off + start - chunk.start, size)
    return covered


def _tail_loss_probe(c: Tcb, burst: Burst) -> None:
    """Send new data, even beyond cwnd, or else the last segment again (RFC 8985 section 7.3)."""
    snd = c.snd
    c.rack.probe_begins()
    if not snd.board.ranges or c.state == TIME_WAIT:
        return
    unsent = snd.snd_nxt < snd.send_end
    if unsent and _send_ranges(c, burst, PROBE_SEGMENTS * burst.mss, len(burst.out) + 1):
        c.rack.probe_sent(False, burst.now)
    elif _resend_last(c, burst):
        c.rack.probe_sent(True, burst.now)


def _resend_last(c: Tcb, burst: Burst) -> bool:
    """Send the last segment again. Returns False if the peer has it, or its window does not take it."""
    snd = c.snd
    last = snd.board.ranges[-1]
    if last.sacked or last.end > snd.snd_una + snd.snd_wnd:
        return False
    data_end = min(snd.snd_nxt, snd.queue_end)
    chunks = snd.chunks
    index = snd.send_index
    if index == len(chunks) or chunks[index].start >= data_end:
        index -= 1
    start = max(last.start, data_end - burst.mss)
    if index >= 0:
        start = max(start, min(chunks[index].start, data_end))
    if _resend(c, burst, start, last.end, index, burst.mss) == 0:
        return False
    snd.board.tail_retransmitted(start, burst.now)
    return True
