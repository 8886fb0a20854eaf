"""Pings through unprivileged ICMP sockets of the host (SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6).

On Linux the groups in ``net.ipv4.ping_group_range`` may open such a socket. The kernel gives each socket an
identifier of its own, and writes it into the requests. The socket gets only the replies with its identifier,
so one socket serves one pinger. ICMP errors come through the socket's error queue, with their sender.

Everything but the type of a message is the same in both families. So this module speaks ICMP of IPv4 with its
caller, and translates types and codes for an IPv6 socket (pipeline.wire.icmp_messages).

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

from pipeline.system import inet
from pipeline.system.outbound import Outbound
from pipeline.wire import icmp, icmp_messages, ip

HEADER_LEN: Final = 8
ECHO_REQUEST6: Final = 128
ECHO_REPLY6: Final = 129

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
# linux/in6.h
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_MTU: Final = 24
_IPV6_RECVERR: Final = 25
_PMTUDISC_DONT: Final = 0
_PMTUDISC_DO: Final = 2
_MESSAGES: Final = {(socket.IPPROTO_IP, _IP_RECVERR): 2, (socket.IPPROTO_IPV6, _IPV6_RECVERR): 3}
"""By level and kind of a control message: the origin that means ICMP, or ICMPv6."""
_EXTENDED_ERROR: Final = Struct("=IBBBBII")
_SEQ: Final = Struct("!H")
_REST: Final = Struct("!I")
_SEQ_OFF: Final = 6
_IDENT_OFF: Final = 4
_CHECKSUM_OFF: Final = 2
_IPV4: Final = 4
_OFFENDER: Final = slice(_EXTENDED_ERROR.size + 4, _EXTENDED_ERROR.size + 8)
_OFFENDER6: Final = slice(_EXTENDED_ERROR.size + 8, _EXTENDED_ERROR.size + 24)
"""Where struct sockaddr_in and sockaddr_in6 have the address."""
_CONTROL_BYTES: Final = 256


class EchoError(NamedTuple):
    """An ICMP error about a request. type, code: as in ICMP of IPv4.

    mtu: of the next hop. offender: the sender of the error. seq: the sequence number of the request.
    """

    type: int
    code: int
    mtu: int
    offender: int
    seq: int


def open_echo(address: str, outbound: Outbound | None = None) -> socket.socket:
    """A non-blocking socket connected to address, and bound to outbound before. Raises OSError.

    address: numeric, of either family.

    An errno in NOT_PERMITTED means that this process can never have such a socket.
    """
    family = inet.family_of(address)
    is_ipv6 = family == socket.AF_INET6
    proto = socket.IPPROTO_ICMPV6 if is_ipv6 else socket.IPPROTO_ICMP
    sock = socket.socket(family, socket.SOCK_DGRAM, proto)
    try:
        sock.setblocking(False)
        if sys.platform == "linux" and is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        elif sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        elif sys.platform == "darwin" and not is_ipv6:
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
    """Set TTL and "don't fragment" of the next requests. A system without the latter ignores it.

    IPv6 has no such bit: only the sender fragments a packet, and the kernel does so for a guest's long ping.
    """
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        if sys.platform == "linux":
            discover = _PMTUDISC_DO if dont_fragment else _PMTUDISC_DONT
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, discover)
        return
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    if sys.platform == "linux":
        discover = _PMTUDISC_DO if dont_fragment else _PMTUDISC_DONT
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discover)
    elif sys.platform == "darwin":
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, _IP_DONTFRAG, int(dont_fragment))


def path_mtu(sock: socket.socket) -> int:
    """The path MTU to the peer of a connected socket, as the host knows it; 0 if the system hides it."""
    if sys.platform != "linux":
        return 0
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
    return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def request_for(sock: socket.socket, message: memoryview) -> memoryview | bytes:
    """A guest's echo request with the type that this socket sends. The kernel completes its checksum.

    Only a request to an IPv4 host that the guest names by an IPv6 address is changed.
    """
    wanted = ECHO_REQUEST6 if sock.family == socket.AF_INET6 else icmp.ECHO_REQUEST
    if message[0] == wanted:
        return message
    return icmp.build(wanted, 0, _REST.unpack_from(message, _IDENT_OFF)[0], message[HEADER_LEN:])


def with_ident(message: memoryview | bytes, ident: int) -> bytes:
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
    if len(packet) < start + HEADER_LEN or packet[start] not in (icmp.ECHO_REPLY, ECHO_REPLY6):
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
            place = _OFFENDER if level == socket.IPPROTO_IP else _OFFENDER6
            if (level, kind) not in _MESSAGES or len(value) < place.stop:
                continue
            _, origin, icmp_type, code, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
            if origin != _MESSAGES[level, kind] or len(data) < HEADER_LEN:
                continue
            if level == socket.IPPROTO_IPV6:
                icmp_type, code = icmp_messages.translated(icmp_type, code)
                if icmp_type == icmp_messages.UNKNOWN:
                    continue
                offender = int.from_bytes(value[place], "big")
            else:
                offender = ip.from_ipv4(int.from_bytes(value[place], "big"))
            mtu = min(info, 0xFFFF)
            yield EchoError(icmp_type, code, mtu, offender, _SEQ.unpack_from(data, _SEQ_OFF)[0])
