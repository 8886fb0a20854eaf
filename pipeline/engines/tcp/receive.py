"""Receiving: acceptability, text, the window and the delay of ACKs.

RFC 9293 sections 3.8.6 and 3.10.7.4, RFC 7323 section 2, RFC 5681 section 4.2, RFC 2883.

The window shown is capacity less what the host has not taken. Out-of-order bytes lie inside
the window already shown, so they need no place beside it. The right edge never moves left,
and moves right in steps that a sender can use (silly-window avoidance).

An ACK means "received in order", not "taken by the host": a host that stalls must close the
window and not set off the guest's retransmission timer. When the host takes bytes quickly,
that sends the ACK; otherwise the delayed-ACK timer does.
"""

from typing import Final

from pipeline.engines.tcp.actions import Deliver, Discard
from pipeline.engines.tcp.seq import MASK
from pipeline.engines.tcp.state import NO_POSITION, Tcb
from pipeline.engines.tcp.timers import DELAYED_ACK, NEVER

PAUSED: Final = 16
"""What seems to take so many times too long is the window of a sender that had nothing to send meanwhile."""


def acceptable(start: int, end: int, rcv_nxt: int, rcv_adv: int) -> bool:
    """Whether positions [start, end) share sequence space with the window (RFC 9293 3.10.7.4).

    Wider than the RFC's table in three ways. A segment that begins before the window and
    ends behind it (a retransmission after GRO) is trimmed instead of refused. One that
    begins exactly at the right edge may still carry an ACK (section 3.10.7.4: "special
    allowance should be made to accept valid ACKs"): a sender that has filled the window has
    no other sequence number for its ACKs. So may a window probe.
    """
    if start > rcv_adv:
        return False
    return end > rcv_nxt or (start == end and start >= rcv_nxt)


def text(c: Tcb, start: int, length: int, buf: object, seg_count: int, now: float) -> str | None:
    """Take the data [start, start + length) of an acceptable segment; buf ends here.

    Returns the name of a drop counter, or None when at least a part was new.
    """
    rcv_nxt = c.rcv_nxt
    end = start + length
    limit = c.rcv_adv
    if 0 <= c.rcv_fin < limit:
        limit = c.rcv_fin
    stop = end if end <= limit else limit
    if stop <= rcv_nxt or stop <= start:
        c.actions.append(Discard(buf))
        c.ack_now = c.wants_transmit = True
        if start < rcv_nxt:
            c.dsack = (start & MASK, min(end, rcv_nxt) & MASK)
            return "tcp_segment_dropped_duplicate"
        return "tcp_segment_dropped_out_of_window"
    if start > rcv_nxt:
        return _out_of_order(c, start, stop, buf)
    size = stop - rcv_nxt
    c.actions.append(Deliver(buf, rcv_nxt - start, size))
    c.rcv_nxt = stop
    c.rcv_untaken += size
    c.data_received_at = now
    mss = c.rcv_mss
    if length > mss * seg_count:
        c.rcv_mss = mss = min(length // seg_count, c.cfg.rcv_mss)
    if stop + 2 * mss > c.rcv_adv:
        c.edge_reached = True
    if start < rcv_nxt:
        c.dsack = (start & MASK, rcv_nxt & MASK)
        c.ack_now = c.wants_transmit = True
    if end > stop:
        # A part was refused: the peer must learn where the window ends.
        c.ack_now = c.wants_transmit = True
    if c.reassembly.ranges:
        _drain(c)
        # RFC 5681 4.2: at once, when a segment fills all or part of a gap.
        c.ack_now = c.wants_transmit = True
    elif not c.ack_owed:
        c.ack_owed = True
        c.timers[DELAYED_ACK] = now + c.cfg.delayed_ack
    return None


def _out_of_order(c: Tcb, start: int, stop: int, buf: object) -> str | None:
    dropped: list[object] = []
    kept = c.reassembly.insert(start, stop, buf, 0, dropped)
    for handle in dropped:
        c.actions.append(Discard(handle))
    # RFC 5681 4.2: a duplicate ACK at once.
    c.ack_now = c.wants_transmit = True
    c.dup_acks_owed += 1
    if not kept:
        return "tcp_segment_dropped_reassembly_full"
    if dropped and dropped[-1] is buf:
        c.dsack = (start & MASK, stop & MASK)
        return "tcp_segment_dropped_duplicate"
    return None


def _drain(c: Tcb) -> None:
    """Deliver what has become contiguous."""
    rcv_nxt = c.rcv_nxt
    actions = c.actions
    reassembly = c.reassembly
    while (held := reassembly.next_at(rcv_nxt)) is not None:
        start, end, buf, skip = held
        if end <= rcv_nxt:
            actions.append(Discard(buf))
            continue
        actions.append(Deliver(buf, skip + rcv_nxt - start, end - rcv_nxt))
        c.rcv_untaken += end - rcv_nxt
        rcv_nxt = end
    c.rcv_nxt = rcv_nxt
    reassembly.forget_blocks(rcv_nxt)


def note_fin(c: Tcb, position: int) -> bool:
    """The peer's FIN stands at position. True when it is next, so that it can be taken now.

    It needs no room, so it is accepted at the right edge too. A FIN before bytes already
    received, or a second one elsewhere, contradicts the peer's own stream and is ignored.
    """
    if position < c.rcv_nxt or position > c.rcv_adv:
        return False
    if c.rcv_fin == NO_POSITION:
        c.rcv_fin = position
    if c.rcv_fin != c.rcv_nxt:
        c.ack_now = c.wants_transmit = True
        c.dup_acks_owed += 1
        return False
    return True


def take_fin(c: Tcb) -> None:
    """rcv_nxt moves over the FIN; bytes held from behind it are thrown away."""
    c.fin_received = True
    c.rcv_nxt += 1
    if c.rcv_adv < c.rcv_nxt:
        c.rcv_adv = c.rcv_nxt
    for buf in c.reassembly.clear():
        c.actions.append(Discard(buf))
    c.ack_now = c.wants_transmit = True


def advertise(c: Tcb) -> int:
    """The window field of a segment that leaves now; moves rcv_adv.

    With a scale the field counts units, so the edge cannot be repeated exactly as rcv_nxt moves
    (RFC 7323 section 2.4). It is rounded up, so that what was promised stays promised, until
    that adds up to one unit over the capacity; then it is rounded down. What is shown may thus
    waver by less than one unit; what is accepted (rcv_adv) never moves left.
    """
    rcv_nxt = c.rcv_nxt
    held = c.rcv_adv - rcv_nxt
    free = c.rcv_capacity - c.rcv_untaken
    shift = c.rcv_wind_shift
    step = c.rcv_capacity >> 1
    if step > c.rcv_mss:
        step = c.rcv_mss
    if free - held >= step and not c.fin_received:
        field = free >> shift
        if field > 65535:
            field = 65535
        if field << shift > held:
            c.rcv_adv = rcv_nxt + (field << shift)
            return field
    field = held >> shift
    if field << shift < held and ((field + 1) << shift) <= free + (1 << shift):
        field += 1
        c.rcv_adv = rcv_nxt + (field << shift)
    return field if field < 65535 else 65535


def taken(c: Tcb, n: int) -> None:
    """The host took n more bytes: maybe an ACK or a window update is due, maybe a larger window."""
    untaken = c.rcv_untaken - n
    c.rcv_untaken = untaken if untaken > 0 else 0
    if c.fin_received:
        return
    if untaken <= 0 and c.edge_reached:
        # The peer filled the window and the host emptied it: the window is the bottleneck.
        c.edge_reached = False
        _tune_window(c)
    c.taken_bytes += n
    two_mss = 2 * c.rcv_mss
    if c.ack_owed and (c.taken_bytes >= two_mss or not c.interactive):
        c.ack_now = c.wants_transmit = True
        return
    step = c.rcv_capacity >> 1
    if step > two_mss:
        step = two_mss
    if c.rcv_capacity - c.rcv_untaken - (c.rcv_adv - c.rcv_nxt) >= step:
        c.ack_now = c.wants_transmit = True


def edge_shown(c: Tcb, now: float) -> None:
    """The segment that leaves now moves the right edge, and all before the one of the last turn has come.

    What lies right before the edge may be sent only once this ACK is there, so a turn takes a round trip,
    with its queues, if the sender always fills the window; longer, if not.
    """
    if c.turn_edge != NO_POSITION:
        elapsed = now - c.turn_began
        if elapsed < c.shortest_turn:
            c.shortest_turn = elapsed
        c.turn_rate = (c.turn_edge - c.turn_start) / elapsed if elapsed > 0 else float("inf")
    c.turn_start = c.rcv_nxt
    c.turn_edge = c.rcv_adv
    c.turn_began = now


def _tune_window(c: Tcb) -> None:
    """Let the window grow while it comes in about a round trip without queues; shrink it when it is late."""
    enough = 2 * c.shortest_turn
    if enough < c.cfg.short_receive_window:
        enough = c.cfg.short_receive_window
    one = c.turn_rate * enough
    capacity = c.rcv_capacity
    if capacity <= one:
        if capacity < c.rcv_limit:
            c.rcv_capacity = min(capacity * 2, c.rcv_limit)
    elif 2 * one < capacity < PAUSED * one:
        c.rcv_capacity = max(capacity // 2, min(c.cfg.initial_receive_window, c.rcv_limit))


def delayed_ack_expired(c: Tcb) -> None:
    """The host was slow or nobody answered: acknowledge now, and stop expecting answers to ride on."""
    c.timers[DELAYED_ACK] = NEVER
    c.interactive = False
    if c.ack_owed:
        c.ack_now = c.wants_transmit = True
