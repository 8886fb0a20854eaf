"""ICMP errors about segments that we sent, from a router beyond the guest or from the guest itself.

RFC 9293 section 3.9.2.2, RFC 1191 (path MTU), RFC 5461 and 5927 (attacks). The stage has checked that the
message came from the guest of the connection. This module checks that the quoted sequence number is in flight
(RFC 5927 section 4.1).

*Fragmentation needed* makes segments smaller for the life of the connection. Larger segments in flight are
sent again at once, without reducing cwnd: a wrong size is not congestion (as in Linux). A message is believed
once for each window or time-out. Otherwise a guest could have one window sent again and again, by naming ever
smaller sizes. On a path with several narrow hops, the message of the second hop is believed after the
time-out. The segments never grow again, because there is no probing (RFC 4821, RFC 8899). A guest's link has
a known MTU, so it is seldom needed.

*Unreachable* ends a connection in SYN-SENT if the code is a hard error (RFC 9293 SHLD-26). All others are
soft errors, which do not end connections (MUST-56, RFC 5461 section 4).
"""

from typing import Final

from pipeline.engines.tcp.config import MIN_MSS
from pipeline.engines.tcp.ending import UNREACHABLE
from pipeline.engines.tcp.state import ESTABLISHED, SYN_SENT
from pipeline.engines.tcp.tcb import Tcb
from pipeline.wire.tcp_options import TIMESTAMPS_LEN

FOREIGN: Final = "tcp_error_dropped_bad_sequence"
IGNORED: Final = "tcp_path_mtu_ignored"
SOFT: Final = "tcp_error_ignored"


def fragmentation_needed(c: Tcb, number: int, mtu: int) -> str | None:
    """Our segment with this sequence number was too long for a hop that takes packets of mtu bytes.

    Segments never become smaller than MIN_MSS. Returns the name of a counter if nothing changed.
    """
    if not c.snd.in_flight(number):
        return FOREIGN
    if c.state < ESTABLISHED or not c.recovery.believes_path_mtu():
        return IGNORED
    mss = max(mtu - c.cfg.header_bytes, MIN_MSS)
    if mss >= c.snd.snd_mss + (TIMESTAMPS_LEN if c.options.ts_ok else 0):
        return IGNORED
    c.set_mss(mss)
    c.recovery.path_mtu_lowered()
    return None


def unreachable(c: Tcb, number: int, hard: bool) -> str | None:
    """Our segment with this sequence number cannot be delivered. hard: the error is final.

    Returns the name of a counter unless the error ended the connection.
    """
    if not c.snd.in_flight(number):
        return FOREIGN
    if c.state != SYN_SENT or not hard:
        return SOFT
    c.finish(UNREACHABLE, tell_host=True, tell_guest=False)
    return None
