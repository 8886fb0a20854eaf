"""ICMP errors about segments of ours: what a router behind the guest, or the guest itself, says of them.

RFC 9293 section 3.9.2.2, RFC 1191 (path MTU), RFC 5461 and 5927 (what not to believe). The stage
has made sure that the message came from the guest it is about; here the quoted sequence number
must be in flight (RFC 5927 section 4.1).

*Fragmentation needed* makes segments smaller for good, and all that is in flight in larger ones is
sent again at once, without slowing down: a size is not congestion (as Linux does). Believed once for
each window or time-out, so that a guest cannot have one window sent again and again by naming ever
smaller sizes: on a path with several narrow hops the second one is heard when the time-out sends again.
Nothing widens the path again: there is no probing (RFC 4821, RFC 8899), and a connection to a guest
lives on a link whose size is known.

*Unreachable* ends a connection that is not open yet, when the code leaves no hope (RFC 9293 SHLD-26);
all others are soft errors, which end nothing (MUST-56, RFC 5461 section 4).
"""

from pipeline.engines.tcp import closing, handshake
from pipeline.engines.tcp.config import IP_TCP_HEADER_BYTES, MIN_MSS
from pipeline.engines.tcp.seq import unwrap
from pipeline.engines.tcp.state import ESTABLISHED, LOSS, NO_POSITION, OPEN, SYN_SENT, Tcb
from pipeline.wire.tcp_options import TIMESTAMPS_LEN

FOREIGN = "tcp_error_dropped_bad_sequence"
IGNORED = "tcp_path_mtu_ignored"
SOFT = "tcp_error_ignored"


def fragmentation_needed(c: Tcb, number: int, mtu: int) -> str | None:
    """A segment with this sequence number was too big for a hop that takes packets of mtu bytes.

    Segments never become smaller than MIN_MSS, which a peer could not ask for either. Returns the name of
    a counter when nothing changed.
    """
    if not _in_flight(c, number):
        return FOREIGN
    if c.state < ESTABLISHED or (c.snd_una < c.path_mtu_mark and c.timeouts == c.path_mtu_timeouts):
        return IGNORED
    mss = max(mtu - IP_TCP_HEADER_BYTES, MIN_MSS)
    if mss >= c.snd_mss + (TIMESTAMPS_LEN if c.ts_ok else 0):
        return IGNORED
    handshake.set_mss(c, mss)
    _send_again(c)
    c.path_mtu_mark = c.snd_nxt
    c.path_mtu_timeouts = c.timeouts
    return None


def unreachable(c: Tcb, number: int, hard: bool) -> str | None:
    """The segment with this sequence number did not arrive. hard: the code leaves no hope.

    Returns the name of a counter unless that ended the connection.
    """
    if not _in_flight(c, number):
        return FOREIGN
    if c.state != SYN_SENT or not hard:
        return SOFT
    closing.finish(c, tell_host=True, tell_guest=False)
    return None


def _in_flight(c: Tcb, number: int) -> bool:
    return c.snd_una <= unwrap(number, c.snd_una) < c.snd_nxt


def _send_again(c: Tcb) -> None:
    """Whatever may have left in larger segments is lost; this is no recovery that could be undone."""
    board = c.board
    for sent in board.ranges:
        if sent.end - sent.start > c.snd_mss:
            board.mark_lost(sent)
    if not board.lost_bytes:
        return
    if c.recovery == OPEN:
        c.recovery = LOSS
    c.recover = c.snd_nxt
    c.dup_acks = 0
    c.fast_retransmit = True
    c.undo_cwnd = 0
    c.undo_ts = NO_POSITION
    c.tlp_due = False
    c.tlp_end_seq = NO_POSITION
    c.trouble = c.wants_transmit = True
