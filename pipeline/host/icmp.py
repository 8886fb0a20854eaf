"""Pings through unprivileged ICMP sockets of the host (SOCK_DGRAM, IPPROTO_ICMP).

On Linux the groups in ``net.ipv4.ping_group_range`` may open such a socket. The kernel gives each socket an
identifier of its own, and writes it into the requests. The socket gets only the replies with its identifier,
so one socket serves one pinger. ICMP errors come through the socket's error queue, with their sender.

On macOS every user may open such a socket. But a socket gets the replies for all pingers of its peer, some
with their IP header. So the owner of the socket chooses an identifier (``with_ident``, ``reply_in``). macOS
does not report ICMP errors.
"""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from typing import Final, NamedTuple

from pipeline.system.outbound import Outbound
from pipeline.wire import ip

HEADER_LEN: Final = 8
ECHO_REPLY: Final = 0

OWN_IDENT: Final = sys.platform == "linux"
"""Whether the system gives each socket an identifier of its own, and only the replies with it."""
NOT_PERMITTED: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EPROTONOSUPPORT,
        errno.EAFNOSUPPORT,
        errno.EINVAL,
        errno.ESOCKTNOSUPPORT,
    }
)

# macOS, netinet/in.h. The numbers of Linux below mean other options there.
_IP_STRIPHDR: Final = 23
_IP_DONTFRAG: Final = 28
# linux/in.h, linux/errqueue.h
_IP_MTU_DISCOVER: Final = 10
_IP_RECVERR: Final = 11
_IP_MTU: Final = 14
_PMTUDISC_DONT: Final = 0
_PMTUDISC_DO: Final = 2
_ORIGIN_ICMP: Final = 2
_EXTENDED_ERROR: Final = Struct("=IBBBBII")
_SEQ: Final = Struct("!H")
_SEQ_OFF: Final = 6
_IDENT_OFF: Final = 4
_CHECKSUM_OFF: Final = 2
_IPV4: Final = 4
_OFFENDER_OFF: Final = _EXTENDED_ERROR.size + 4
_CONTROL_BYTES: Final = 256


class EchoError(NamedTuple):
    """An ICMP error about a request.

    mtu: of the next hop. offender: the sender of the error. seq: the sequence number of the request.
    """

    type: int
    code: int
    mtu: int
    offender: int
    seq: int


def open_echo(address: str, outbound: Outbound | None = None) -> socket.socket:
    """A non-blocking socket connected to address, and bound to outbound before. Raises OSError.

    An errno in NOT_PERMITTED means that this process can never have such a socket.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    try:
        sock.setblocking(False)
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        elif sys.platform == "darwin":
            with suppress(OSError):  # reply_in() also skips the header itself
                sock.setsockopt(socket.IPPROTO_IP, _IP_STRIPHDR, 1)
        if outbound is not None:
            outbound.bind(sock, address)
        sock.connect((address, 0))
    except OSError:
        sock.close()
        raise
    return sock


def set_path(sock: socket.socket, ttl: int, *, dont_fragment: bool) -> None:
    """Set TTL and "don't fragment" of the next requests. A system without the latter ignores it."""
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    if sys.platform == "linux":
        discover = _PMTUDISC_DO if dont_fragment else _PMTUDISC_DONT
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discover)
    elif sys.platform == "darwin":
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, _IP_DONTFRAG, int(dont_fragment))


def path_mtu(sock: socket.socket) -> int:
    """The path MTU to the peer of a connected socket, as the host knows it; 0 if the system hides it."""
    return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU) if sys.platform == "linux" else 0


def with_ident(message: memoryview, ident: int) -> bytes:
    """A copy of an ICMP message with another identifier, its checksum updated (RFC 1624 equation 3)."""
    copy = bytearray(message)
    (before,) = _SEQ.unpack_from(copy, _IDENT_OFF)
    (checksum,) = _SEQ.unpack_from(copy, _CHECKSUM_OFF)
    total = (~checksum & 0xFFFF) + (~before & 0xFFFF) + ident
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    _SEQ.pack_into(copy, _IDENT_OFF, ident)
    _SEQ.pack_into(copy, _CHECKSUM_OFF, ~total & 0xFFFF)
    return bytes(copy)


def reply_in(packet: memoryview, ident: int) -> int:
    """The offset of an echo reply with this identifier in what was read; -1 if it is not one.

    ident 0: do not compare the identifier, since the system has done so.
    """
    start = (packet[0] & 15) * 4 if len(packet) and packet[0] >> 4 == _IPV4 else 0
    if len(packet) < start + HEADER_LEN or packet[start] != ECHO_REPLY:
        return -1
    if ident and _SEQ.unpack_from(packet, start + _IDENT_OFF)[0] != ident:
        return -1
    return start


def errors(sock: socket.socket, limit: int) -> Iterator[EchoError]:
    """At most limit ICMP errors about this socket's requests. Errors of the local host are left out.

    A system without an error queue gives none.
    """
    if sys.platform != "linux":
        return
    for _ in range(limit):
        try:
            data, ancillary, _, _ = sock.recvmsg(HEADER_LEN, _CONTROL_BYTES, socket.MSG_ERRQUEUE)
        except OSError:
            # The queue is empty.
            return
        for level, kind, value in ancillary:
            if level != socket.IPPROTO_IP or kind != _IP_RECVERR or len(value) < _OFFENDER_OFF + 4:
                continue
            _, origin, icmp_type, code, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
            if origin != _ORIGIN_ICMP or len(data) < HEADER_LEN:
                continue
            offender = ip.from_ipv4(int.from_bytes(value[_OFFENDER_OFF : _OFFENDER_OFF + 4], "big"))
            yield EchoError(icmp_type, code, info & 0xFFFF, offender, _SEQ.unpack_from(data, _SEQ_OFF)[0])
