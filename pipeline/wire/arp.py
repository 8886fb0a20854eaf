"""ARP for IPv4 over Ethernet (RFC 826): the 28 bytes after the Ethernet header.

::

    0      2      4     5     6   8    14   18   24
    htype  ptype  hlen  plen  op  sha  spa  tha  tpa
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import ip
from pipeline.wire.errors import WireError

FIXED: Final = Struct("!HHBBH6sI6sI")
LEN: Final = FIXED.size

REQUEST: Final = 1
REPLY: Final = 2

_ETHERNET: Final = 1
_IPV4: Final = 0x0800


class Arp(NamedTuple):
    """Hardware (6 bytes) and IP addresses of sender and target. op: REQUEST or REPLY."""

    op: int
    sha: bytes
    spa: int
    tha: bytes
    tpa: int


def parse(view: memoryview | bytes, off: int, end: int) -> Arp:
    """Read the message at view[off:end]. Padding may follow it.

    Raises WireError for anything but a request or a reply about IPv4 on Ethernet.
    """
    if end - off < LEN or end > len(view) or off < 0:
        raise WireError("arp_message_dropped_truncated")
    htype, ptype, hlen, plen, op, sha, spa, tha, tpa = FIXED.unpack_from(view, off)
    if htype != _ETHERNET or ptype != _IPV4 or hlen != 6 or plen != 4 or op not in (REQUEST, REPLY):
        raise WireError("arp_message_dropped_unsupported")
    return Arp(op, sha, ip.from_ipv4(spa), tha, ip.from_ipv4(tpa))


def build(op: int, sha: bytes, spa: int, tha: bytes, tpa: int) -> bytes:
    """The 28 bytes of a message, without Ethernet header or padding."""
    return FIXED.pack(_ETHERNET, _IPV4, 6, 4, op, sha, ip.to_ipv4(spa), tha, ip.to_ipv4(tpa))
