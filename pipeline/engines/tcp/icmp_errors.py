"""ICMP errors about segments of ours, from a router beyond the guest or from the guest itself.

RFC 9293 section 3.9.2.2, RFC 1191 (path MTU), RFC 5461 and 5927 (what not to believe). The stage has made
sure that the message came from the guest it is about. Here the quoted sequence number must be in flight
(RFC 5927 section 4.1).

*Fragmentation needed* makes segments smaller for good. All that is in flight in larger segments is sent
again at once, without slowing down: a size is not congestion (as Linux does). It is believed once for each
window or time-out, so that a guest cannot have one window sent again and again by naming ever smaller
sizes. On a path with several narrow hops the second one is heard when the time-out sends again. Nothing
widens the path again: there is no probing (RFC 4821, RFC 8899), and a connection to a guest lives on a link
whose size is known.

*Unreachable* ends a connection that is not open yet, when the code leaves no hope (RFC 9293 SHLD-26). All
others are soft errors, which end nothing (MUST-56, RFC 5461 section 4).
"""

from typing import Final

from pipeline.engines.tcp.config import IP_TCP_HEADER_BYTES, MIN_MSS
from pipeline.engines.tcp.state import ESTABLISHED, SYN_SENT
from pipeline.engines.tcp.tcb import Tcb
from pipeline.wire.tcp_options import TIMESTAMPS_LEN

FOREIGN: Final = "tcp_error_dropped_bad_sequence"
IGNORED: Final = "tcp_path_mtu_ignored"
SOFT: Final = "tcp_error_ignored"


def fragmentation_needed(c: Tcb, number: int, mtu: int) -> str | None:
    """A segment with this sequence number was too big for a hop that takes packets of mtu bytes.

    Segments never become smaller than MIN_MSS, which a peer could not ask for either. Returns the name of a
    counter when nothing changed.
    """
    if not c.snd.in_flight(number):
        return FOREIGN
    if c.state < ESTABLISHED or not c.recovery.believes_path_mtu():
        return IGNORED
    mss = max(mtu - IP_TCP_HEADER_BYTES, MIN_MSS)
    if mss >= c.snd.snd_mss + (TIMESTAMPS_LEN if c.options.ts_ok else 0):
        return IGNORED
    c.set_mss(mss)
    c.recovery.path_mtu_lowered()
    return None


def unreachable(c: Tcb, number: int, hard: bool) -> str | None:
    """The segment with this sequence number did not arrive. hard: the code leaves no hope.

    Returns the name of a counter unless that ended the connection.
    """
    if not c.snd.in_flight(number):
        return FOREIGN
    if c.state != SYN_SENT or not hard:
        return SOFT
    c.finish(tell_host=True, tell_guest=False)
    return None
