"""System calls that ingress keeps besides those of all workers (pipeline.stages.system_calls).

Ingress reads what guests send, so it keeps little: no files, no new sockets.
"""

import socket
from typing import Final

from pipeline.system.sandbox.calls import Arg, Call, Calls, calls, each_value

_SIOCGIFNAME: Final = 0x8910
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFINDEX: Final = 0x8933
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_TUNGETIFF: Final = 0x800454D2

CALLS: Final[Calls] = (
    *calls("guests arrive at listeners", "accept4", "accept"),
    *calls("datagram links: the first datagram names the peer", "connect"),
    *calls("datagram links: whether the peer's socket file is still there", "stat"),
    Call("newfstatat", "the same", (Arg(3, 0, 0xFFFF),)),
    *each_value("ioctl", "taps", 1, (_SIOCGIFNAME, _SIOCGIFADDR, _SIOCGIFINDEX)),
    *each_value("ioctl", "taps that are passed", 1, (_TUNSETOFFLOAD, _TUNSETVNETHDRSZ, _TUNSETVNETLE)),
    *each_value("ioctl", "taps that are passed", 1, (_TUNGETIFF,)),
    *calls("vhost-user: guest memory in files that may shrink", "preadv", "preadv2", "pwritev", "pwritev2"),
    *calls("vhost-user: whether a descriptor is an eventfd", "readlink", "readlinkat"),
    *calls("captures: the file", "fsync", "fdatasync"),
)
TUNNEL: Final[Calls] = tuple(
    Call(
        "socket",
        "VXLAN: a socket knows the MTU of the path to a host",
        (Arg(0, family), Arg(1, socket.SOCK_DGRAM, 0xF)),
    )
    for family in (socket.AF_INET, socket.AF_INET6)
)
"""What ingress keeps besides if it has a VXLAN link. The socket of that link reaches every host anyway."""
