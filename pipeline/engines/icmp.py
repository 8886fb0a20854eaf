"""ICMP messages of the gateway (RFC 792, RFC 1122 section 3.2.2): echo replies, and errors about packets.

The gateway sends no error about an ICMP error, or about a fragment other than the first. It sends none about
a packet to a group or broadcast address, or from a source that is not a single host. A token bucket limits
the rate of errors (RFC 1812 section 4.3.2.8).
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final

from pipeline.wire import icmp, ip, ipv4, udp
from pipeline.wire.errors import WireError

ERRORS_PER_SECOND: Final = 100.0
ERRORS_BURST: Final = 50.0
QUOTED_BYTES: Final = 8
"""Bytes of the offending packet's payload that an error quotes after its IP header (RFC 792)."""

MIN_MTU: Final = 68
"""Every hop accepts packets of this many bytes (RFC 791 section 3.2)."""
PLATEAUS: Final = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, MIN_MTU)
"""Usual MTUs of links (RFC 1191 table 7-1)."""

_ADDRS: Final = Struct("!II")
_IP_ADDRS: Final = 12


def is_answerable_echo(header: ipv4.Header, message: icmp.Message, own: Iterable[int]) -> bool:
    """Whether the whole (reassembled) packet is an echo request to one of the gateway's addresses."""
    return (
        message.type == icmp.ECHO_REQUEST
        and message.code == 0
        and header.dst in own
        and not header.frag_off
        and not header.flags & ipv4.FLAG_MF
        and _is_host(header.src)
    )


def echo_reply(view: memoryview | bytes, off: int, header: ipv4.Header) -> bytes:
    """The reply to the echo request whose IPv4 header is at off, as a new IP packet.

    The request must satisfy is_answerable_echo(). The reply has the same identifier, sequence number,
    payload, TOS and IP identification (RFC 1122 section 3.2.2.6), but no IP options.
    """
    begin = off + header.ihl
    _, _, _, rest = icmp.FIXED.unpack_from(view, begin)
    message = icmp.build(icmp.ECHO_REPLY, 0, rest, view[begin + icmp.HEADER_LEN : off + header.total_len])
    return (
        ipv4.build(
            ipv4.HEADER_LEN + len(message),
            header.ident,
            ipv4.DEFAULT_TTL,
            ipv4.PROTO_ICMP,
            header.dst,
            header.src,
            tos=header.tos,
        )
        + message
    )


def next_hop_mtu(named: int, total_len: int) -> int:
    """The MTU that a "fragmentation needed" message asks for, about a packet of total_len bytes.

    named: the MTU in the message. Routers older than RFC 1191 send 0. Then the result is the next smaller
    usual MTU (sections 5 and 7). Raises WireError when no hop can have this MTU, or when the packet is not
    longer than it (RFC 5927 section 7.2).
    """
    mtu = named or next((size for size in PLATEAUS if size < total_len), 0)
    if not MIN_MTU <= mtu < total_len:
        raise WireError("icmp_error_dropped_bad_mtu")
    return mtu


def quote_flow(src: int, dst: int, proto: int, src_port: int, dst_port: int, third: int = 0) -> bytes:
    """A packet of a flow for an error to quote, where the guest's packet itself was not kept.

    It has an IP header and the 8 bytes by which the guest's stack finds its socket: the ports and, for TCP,
    the sequence number ``third``. src: the guest's address.
    """
    if proto == ipv4.PROTO_UDP:
        head = udp.build(src_port, dst_port, udp.HEADER_LEN)
    else:
        head = (src_port << 48 | dst_port << 32 | third).to_bytes(QUOTED_BYTES, "big")
    return ipv4.build(ipv4.HEADER_LEN + QUOTED_BYTES, 0, ipv4.DEFAULT_TTL, proto, src, dst) + head


class IcmpErrors:
    """Makes ICMP errors as whole IP packets. Their source is the gateway, if the caller names no other."""

    def __init__(
        self,
        gateway: int,
        broadcast: int,
        per_second: float = ERRORS_PER_SECOND,
        burst: float = ERRORS_BURST,
    ) -> None:
        """broadcast: the subnet's directed broadcast address."""
        self._gateway = gateway
        self._broadcast = broadcast
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._filled_at = 0.0
        self._ident = 0
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
    ) -> bytes | None:
        """Destination unreachable (code of wire.icmp) about the packet at view[off:], or None.

        view: has the whole packet, or what quote_flow() made. mtu: for FRAGMENTATION_NEEDED. src: the source
        address of the error.
        """
        quoted = self._quote(view, off, now)
        if quoted is None:
            return None
        return self._packet(quoted, icmp.build_unreachable(code, quoted, mtu), src)

    def time_exceeded(
        self, view: memoryview | bytes, off: int, now: float, code: int, src: int | None = None
    ) -> bytes | None:
        """Time exceeded about the packet at view[off:], or None."""
        quoted = self._quote(view, off, now)
        if quoted is None:
            return None
        return self._packet(quoted, icmp.build_time_exceeded(code, quoted), src)

    def _packet(self, quoted: bytes, message: bytes, src: int | None) -> bytes:
        guest = ip.from_ipv4(_ADDRS.unpack_from(quoted, _IP_ADDRS)[0])
        self._ident = (self._ident + 1) & 0xFFFF
        origin = self._gateway if src is None else src
        return (
            ipv4.build(
                ipv4.HEADER_LEN + len(message),
                self._ident,
                ipv4.DEFAULT_TTL,
                ipv4.PROTO_ICMP,
                origin,
                guest,
            )
            + message
        )

    def _quote(self, view: memoryview | bytes, off: int, now: float) -> bytes | None:
        """Header and 8 bytes of the offending packet; None when no error may be sent about it."""
        header = ipv4.parse(view, off, len(view))
        if header.frag_off or not _is_host(header.src) or not _is_host(header.dst):
            return None
        if self._broadcast in (header.src, header.dst):
            return None
        payload = off + header.ihl
        if header.proto == ipv4.PROTO_ICMP and (
            header.total_len <= header.ihl or view[payload] in icmp.ERRORS
        ):
            return None
        if not self._take_token(now):
            self.suppressed += 1
            return None
        return bytes(view[off : min(payload + QUOTED_BYTES, off + header.total_len)])

    def _take_token(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def _is_host(addr: int) -> bool:
    """Whether addr can be one host's: not in 0/8, 240/4 or loopback, and not a group or broadcast."""
    return 0 < ip.to_ipv4(addr) >> 24 < 224 and not ip.is_loopback(addr)
