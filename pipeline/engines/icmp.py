"""ICMP errors of the gateway (RFC 792, RFC 1122 section 3.2.2; RFC 4443), and the pings that it answers.

The version of the offending packet decides the family of an error. The gateway sends no error about an ICMP
error or a redirect. It sends none about a packet to a group or broadcast address, or from a source that is
not a single host. A token bucket limits the rate of errors (RFC 1812 section 4.3.2.8, RFC 4443 section
2.4 f).

::

                                      ICMP              ICMPv6
    about a fragment but the first    no                yes, unless it may be of an ICMPv6 error
    about a packet to a group         no                only "packet too big" and "unknown option"
    quotes                            header, 8 bytes   what fits into a packet of 1280 bytes
"""

from collections.abc import Container
from typing import Final, NamedTuple

from pipeline.engines.apart.inner import is_inner_ipv4
from pipeline.wire import icmp, icmp_messages, icmpv6, ip, ip_header, ipv4, ipv6, udp
from pipeline.wire.errors import HeaderError, WireError

ERRORS_PER_SECOND: Final = 100.0
ERRORS_BURST: Final = 50.0
QUOTED_BYTES: Final = 8
"""Bytes of the offending packet's payload that an error quotes after its IP header (RFC 792)."""

MIN_MTU: Final = 68
"""Every hop accepts IPv4 packets of this many bytes (RFC 791 section 3.2)."""
PLATEAUS: Final = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, MIN_MTU)
"""Usual MTUs of links (RFC 1191 table 7-1)."""

_IPV4: Final = 4


class Error(NamedTuple):
    """An error to send. proto: PROTO_ICMP or PROTO_ICMPV6. message: with its checksum, without IP header."""

    src: int
    dst: int
    proto: int
    message: bytes


def is_answerable_echo(message: icmp.Message, src: int, dst: int, own: Container[int]) -> bool:
    """Whether a message is an echo request from a host to one of the gateway's addresses.

    message: as pipeline.wire.icmp_messages reads it. src, dst: of its packet, which is whole.
    """
    return message.type == icmp.ECHO_REQUEST and message.code == 0 and dst in own and _is_sender(src)


def next_hop_mtu(named: int, quoted: icmp.Quoted) -> int:
    """The MTU that "fragmentation needed" or "packet too big" asks for, about the quoted packet.

    named: the MTU in the message. Routers older than RFC 1191 send 0. Then the result is the next smaller
    usual MTU (sections 5 and 7). Raises WireError when no hop can have this MTU (RFC 8201 section 4), or when
    the packet is not longer than it (RFC 5927 section 7.2).
    """
    total_len = quoted.total_len
    mtu, least = named, ipv6.MIN_MTU
    if ip.is_ipv4(quoted.src):
        mtu = named or next((size for size in PLATEAUS if size < total_len), 0)
        least = MIN_MTU
    if not least <= mtu < total_len:
        raise WireError("icmp_error_dropped_bad_mtu")
    return mtu


def quote_flow(src: int, dst: int, proto: int, src_port: int, dst_port: int, third: int = 0) -> bytes:
    """A packet of a flow for an error to quote, where the guest's packet itself was not kept.

    It has an IP header and the 8 bytes by which the guest's stack finds its socket: the ports and, for TCP,
    the sequence number ``third``. src: the guest's address, which decides the family.
    """
    if proto == ipv4.PROTO_UDP:
        head = udp.build(src_port, dst_port, udp.HEADER_LEN)
    else:
        head = (src_port << 48 | dst_port << 32 | third).to_bytes(QUOTED_BYTES, "big")
    return ip_header.build(QUOTED_BYTES, 0, proto, src, dst) + head


def quote_ping(src: int, dst: int, rest: int) -> bytes:
    """The same for a guest's ping. rest: identifier << 16 | sequence number."""
    proto, request = icmp_messages.build_echo(icmp.ECHO_REQUEST, rest, src, dst)
    return ip_header.build(len(request), 0, proto, src, dst) + request


class IcmpErrors:
    """Makes ICMP errors of both families. Their source is the gateway, if the caller names no other.

    Each method raises WireError if the packet has no header of its version.
    """

    def __init__(
        self,
        gateway: int,
        broadcast: int,
        per_second: float = ERRORS_PER_SECOND,
        burst: float = ERRORS_BURST,
        ipv6_gateway: int = ip.NOTHING,
    ) -> None:
        """broadcast: the subnet's directed broadcast address.

        ipv6_gateway: the gateway's address in the guests' prefix. Without one, there are no errors about IPv6
        packets.
        """
        self._gateway = gateway
        self._ipv6_gateway = ipv6_gateway
        self._broadcast = broadcast
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._filled_at = 0.0
        self.suppressed = 0
        """Errors not sent because of the rate limit (counter ``icmp_error_dropped_rate_limit``)."""

    def set_rate(self, per_second: float, burst: float) -> None:
        """Change the rate and the burst of errors."""
        self._tokens += burst - self._burst
        self._per_second = per_second
        self._burst = burst

    def unreachable(
        self,
        view: memoryview | bytes,
        off: int,
        now: float,
        code: int,
        mtu: int = 0,
        src: int | None = None,
    ) -> Error | None:
        """Destination unreachable (code of wire.icmp) about the packet at view[off:], or None.

        view: has the whole packet, or what quote_flow() made. mtu: for FRAGMENTATION_NEEDED. src: the source
        address of the error. wire.icmpv6 has what the code becomes about an IPv6 packet.
        """
        if _is_ipv4(view, off):
            return self._about_ipv4(view, off, now, icmp.Says(icmp.UNREACHABLE, code, mtu & 0xFFFF), src)
        named_at = _walk(view, off).named_at - off if code == icmp.PROTOCOL_UNREACHABLE else 0
        return self._about_ipv6(view, off, now, icmpv6.unreachable(code, mtu, named_at), src)

    def time_exceeded(
        self, view: memoryview | bytes, off: int, now: float, code: int, src: int | None = None
    ) -> Error | None:
        """Time exceeded about the packet at view[off:], or None. Both families have the same codes."""
        if _is_ipv4(view, off):
            return self._about_ipv4(view, off, now, icmp.Says(icmp.TIME_EXCEEDED, code, 0), src)
        return self._about_ipv6(view, off, now, icmp.Says(icmpv6.TIME_EXCEEDED, code, 0), src)

    def parameter_problem(
        self, view: memoryview | bytes, off: int, now: float, error: HeaderError, src: int | None = None
    ) -> Error | None:
        """Tell the sender of the IPv6 packet at view[off:] what is wrong with its headers, or None."""
        says = icmp.Says(icmpv6.PARAMETER_PROBLEM, error.code, error.pointer)
        return self._about_ipv6(view, off, now, says, src)

    def _about_ipv4(
        self, view: memoryview | bytes, off: int, now: float, says: icmp.Says, src: int | None
    ) -> Error | None:
        header = ipv4.parse(view, off, len(view))
        if header.frag_off or not _is_sender(header.src) or not _is_host(header.dst):
            return None
        if self._broadcast in (header.src, header.dst):
            return None
        payload, end = off + header.ihl, off + header.total_len
        if header.proto == ipv4.PROTO_ICMP and (payload >= end or view[payload] in icmp.ERRORS):
            return None
        if not self._take_token(now):
            return None
        quoted = view[off : min(payload + QUOTED_BYTES, end)]
        message = icmp.build_error(says, quoted)
        return Error(self._gateway if src is None else src, header.src, ipv4.PROTO_ICMP, message)

    def _about_ipv6(
        self, view: memoryview | bytes, off: int, now: float, says: icmp.Says, src: int | None
    ) -> Error | None:
        """The rules of RFC 4443 section 2.4 e."""
        header = ipv6.parse(view, off, len(view))
        if not self._ipv6_gateway or not _is_host(header.src):
            return None
        if ip.is_multicast(header.dst) and says[:2] not in _ABOUT_GROUPS:
            return None
        end = off + ipv6.HEADER_LEN + header.payload_len
        if _may_be_error(view, off, end) or not self._take_token(now):
            return None
        origin = self._ipv6_gateway if src is None else src
        message = icmpv6.build_error(says, view[off:end], origin, header.src)
        return Error(origin, header.src, ipv6.PROTO_ICMPV6, message)

    def _take_token(self, now: float) -> bool:
        """Whether the rate permits one more error. Counts it if not."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._tokens < 1.0:
            self.suppressed += 1
            return False
        self._tokens -= 1.0
        return True


_ABOUT_GROUPS: Final = frozenset(
    ((icmpv6.PACKET_TOO_BIG, 0), (icmpv6.PARAMETER_PROBLEM, ipv6.UNKNOWN_OPTION))
)
"""Types and codes of errors that may be about packets to a group: path MTU discovery needs the first one."""


def _is_ipv4(view: memoryview | bytes, off: int) -> bool:
    return view[off] >> 4 == _IPV4


def _walk(view: memoryview | bytes, off: int) -> ipv6.Upper:
    header = ipv6.parse(view, off, len(view))
    begin = off + ipv6.HEADER_LEN
    return ipv6.walk(view, begin, begin + header.payload_len, header.next_header)


def _may_be_error(view: memoryview | bytes, off: int, end: int) -> bool:
    """Whether the IPv6 packet in view[off:end] is an ICMPv6 error or redirect, or a part of one."""
    try:
        upper = _walk(view, off)
    except WireError:
        # Its headers do not end in it, so it has no ICMPv6 header.
        return False
    if upper.proto != ipv6.PROTO_ICMPV6:
        return False
    return upper.frag_off != 0 or upper.off >= end or icmpv6.is_error(view[upper.off])


def _is_sender(addr: int) -> bool:
    """Whether a guest may have sent from addr: one host's address, or an inner one."""
    return _is_host(addr) or is_inner_ipv4(addr)


def _is_host(addr: int) -> bool:
    """Whether addr can be one host's.

    It is no group, broadcast, loopback or unspecified address, and in IPv4 not in 0/8 or 240/4.
    """
    if ip.is_ipv4(addr):
        return 0 < ip.to_ipv4(addr) >> 24 < 224 and not ip.is_loopback(addr)
    return bool(addr) and not ip.is_multicast(addr) and not ip.is_loopback(addr)
