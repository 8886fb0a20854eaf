"""Unprivileged ICMP sockets of the host (SOCK_DGRAM, IPPROTO_ICMP): echo requests only.

On Linux such a socket may be opened by the groups in ``net.ipv4.ping_group_range``. The kernel puts its
own identifier into each request and gives back replies to it alone, so one socket serves one
pinger. Errors about its requests come through the error queue, with who sent them.
"""

import errno
import socket
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

HEADER_LEN: Final = 8
ECHO_REPLY: Final = 0

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
_OFFENDER_OFF: Final = _EXTENDED_ERROR.size + 4
_CONTROL_BYTES: Final = 256


class EchoError(NamedTuple):
    """An ICMP error about a request: its type and code, next-hop MTU, who sent it, the request's number."""

    type: int
    code: int
    mtu: int
    offender: int
    seq: int


def open_echo(address: str) -> socket.socket:
    """A non-blocking socket connected to address. OSError: NOT_PERMITTED has what means "never here"."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        sock.connect((address, 0))
    except OSError:
        sock.close()
        raise
    return sock


def set_path(sock: socket.socket, ttl: int, *, dont_fragment: bool) -> None:
    """How the next requests travel."""
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO if dont_fragment else _PMTUDISC_DONT)


def path_mtu(sock: socket.socket) -> int:
    """The MTU towards the peer of a connected socket, as far as the host knows it."""
    return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def errors(sock: socket.socket, limit: int) -> Iterator[EchoError]:
    """At most limit errors about this socket's requests, without those the host itself made up."""
    for _ in range(limit):
        try:
            data, ancillary, _, _ = sock.recvmsg(HEADER_LEN, _CONTROL_BYTES, socket.MSG_ERRQUEUE)
        except OSError:
            # Nothing more is there.
            return
        for level, kind, value in ancillary:
            if level != socket.IPPROTO_IP or kind != _IP_RECVERR or len(value) < _OFFENDER_OFF + 4:
                continue
            _, origin, icmp_type, code, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
            if origin != _ORIGIN_ICMP or len(data) < HEADER_LEN:
                continue
            offender = int.from_bytes(value[_OFFENDER_OFF : _OFFENDER_OFF + 4], "big")
            yield EchoError(icmp_type, code, info & 0xFFFF, offender, _SEQ.unpack_from(data, _SEQ_OFF)[0])
