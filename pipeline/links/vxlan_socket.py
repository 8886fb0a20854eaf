"""The UDP socket of a VXLAN link: many datagrams with one system call, in both directions.

The kernel cuts what is sent into datagrams of equal length (UDP_SEGMENT), and hands over datagrams of equal
length together (UDP_GRO). Without these options each datagram costs a call. No datagram is ever cut into
fragments on its way (RFC 7348 section 4.3), so one that is too long is refused at once.
"""

import errno
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from struct import Struct
from typing import Final

from pipeline.links.addresses import AddressError, words_of
from pipeline.links.base import Buffer
from pipeline.links.vxlan_url import VxlanPlace

MAX_SEGMENTS: Final = 64
"""Datagrams in one call. Linux takes 128 since 6.9, and 64 before."""
MAX_BYTES: Final = 65000
"""Bytes in one call, outer headers not included."""
BUFFER_BYTES: Final = 4 * 1024 * 1024

SENT: Final = 0
FULL: Final = 1
TOO_LONG: Final = 2
UNREACHABLE: Final = 3
CUT_YOURSELF: Final = 4
"""Results of send(). CUT_YOURSELF: the kernel cannot cut this. Nothing was sent."""

_SOL_UDP: Final = 17
_UDP_NO_CHECK6_RX: Final = 102
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_DO: Final = 2
_SEGMENT: Final = Struct("=H")
_GRO: Final = Struct("=i")
_ANCILLARY: Final = socket.CMSG_SPACE(_GRO.size) if hasattr(socket, "CMSG_SPACE") else 0
_QUEUE_FULL: Final = frozenset((errno.EAGAIN, errno.ENOBUFS))
_CANNOT_CUT: Final = frozenset((errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.EMSGSIZE))
"""EIO: the route has IPsec, or a card without checksums."""


def bind(place: VxlanPlace) -> socket.socket:
    """The bound socket of a place. Raises AddressError."""
    where = f"{place.local.address} port {place.local.port}"
    if sys.platform != "linux":
        raise AddressError(f"cannot listen: vxlan on {where} needs Linux")
    sock = socket.socket(socket.AF_INET6 if place.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if place.is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
            # Tunnels may leave the outer checksum out (RFC 6935). The frames have their own.
            sock.setsockopt(_SOL_UDP, _UDP_NO_CHECK6_RX, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        sock.bind(place.local)
    except OSError as error:
        sock.close()
        raise AddressError(f"cannot listen: listen udp {where}: bind: {words_of(error)}") from error
    sock.setblocking(False)
    return sock


class VxlanSocket:
    """The bound socket, which this object owns."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.can_cut = True
        """Whether the kernel cuts. Not any more after it has refused for another reason than the length."""
        for name in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, name, BUFFER_BYTES)
        with suppress(OSError):
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._sock.fileno()

    def receive(self, room: memoryview) -> tuple[int, int, str]:
        """Read datagrams of equal length from one sender, of which the last may be shorter.

        Returns the number of bytes, the length of one datagram, and the sender's address. Bytes are cut off
        if the room is too small. Raises BlockingIOError if there is nothing to read, or another OSError.
        """
        count, extra, _flags, sender = self._sock.recvmsg_into([room], _ANCILLARY)
        size: int = count
        for level, kind, data in extra:
            if level == _SOL_UDP and kind == _UDP_GRO and len(data) >= _GRO.size:
                size = int(_GRO.unpack_from(data)[0])
        return count, size or count, str(sender[0])

    def send(self, parts: Sequence[Buffer], size: int, is_one: bool, where: tuple[str, int]) -> int:
        """Send the bytes of parts to ``where``, as datagrams of size bytes. The last may be shorter.

        is_one: the bytes are one datagram. Returns what came of it.
        """
        try:
            if is_one:
                self._sock.sendmsg(parts, (), 0, where)
            else:
                self._sock.sendmsg(parts, [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT.pack(size))], 0, where)
        except OSError as error:
            if error.errno in _QUEUE_FULL:
                return FULL
            if not is_one and error.errno in _CANNOT_CUT:
                self.can_cut = self.can_cut and error.errno in (errno.EINVAL, errno.EMSGSIZE)
                return CUT_YOURSELF
            return TOO_LONG if error.errno == errno.EMSGSIZE else UNREACHABLE
        return SENT

    def close(self) -> None:
        """Close it."""
        self._sock.close()
