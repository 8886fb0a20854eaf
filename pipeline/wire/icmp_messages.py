"""ICMP messages of both families, in the types and codes of IPv4.

Types and codes are translated as in RFC 7915 sections 4.2 and 5.2. So records and stages have those of ICMP
alone, but for neighbour discovery.
"""

from typing import Final

from pipeline.wire import icmp, icmpv6, ip, ipv4, ipv6
from pipeline.wire.ip_header import IpHeader

UNKNOWN: Final = -1
"""The type of a message that has no counterpart in ICMP of IPv4."""

_ECHO: Final = {icmp.ECHO_REQUEST: icmpv6.ECHO_REQUEST, icmp.ECHO_REPLY: icmpv6.ECHO_REPLY}
_TYPES: Final = {
    icmpv6.ECHO_REQUEST: icmp.ECHO_REQUEST,
    icmpv6.ECHO_REPLY: icmp.ECHO_REPLY,
    icmpv6.TIME_EXCEEDED: icmp.TIME_EXCEEDED,
    icmpv6.PARAMETER_PROBLEM: icmp.PARAMETER_PROBLEM,
}
_UNREACHABLE_CODES: Final = {
    icmpv6.PROHIBITED: icmp.ADMINISTRATIVELY_PROHIBITED,
    icmpv6.PORT_UNREACHABLE: icmp.PORT_UNREACHABLE,
    icmpv6.SOURCE_POLICY_FAILED: icmp.ADMINISTRATIVELY_PROHIBITED,
    icmpv6.REJECT_ROUTE: icmp.ADMINISTRATIVELY_PROHIBITED,
    icmpv6.NO_ROUTE: icmp.NET_UNREACHABLE,
}
_MAX_MTU: Final = 0xFFFF


def translated(kind: int, code: int) -> tuple[int, int]:
    """Type and code of ICMP for those of ICMPv6. The type may be UNKNOWN."""
    if kind == icmpv6.UNREACHABLE:
        return icmp.UNREACHABLE, _UNREACHABLE_CODES.get(code, icmp.HOST_UNREACHABLE)
    if kind == icmpv6.PACKET_TOO_BIG:
        return icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED
    if (kind, code) == (icmpv6.PARAMETER_PROBLEM, ipv6.UNKNOWN_NEXT_HEADER):
        return icmp.UNREACHABLE, icmp.PROTOCOL_UNREACHABLE
    return _TYPES.get(kind, UNKNOWN), code


def parse(view: memoryview | bytes, header: IpHeader) -> icmp.Message:
    """Read the message of this packet, and verify its checksum. Raises WireError.

    In "fragmentation needed" ``rest`` is the MTU, at most 65535.
    """
    if ip.is_ipv4(header.dst):
        return icmp.parse(view, header.begin, header.end)
    kind, code, checksum, rest = icmpv6.parse(view, header.begin, header.end, header.src, header.dst)
    if kind == icmpv6.PACKET_TOO_BIG:
        rest = min(rest, _MAX_MTU)
    return icmp.Message(*translated(kind, code), checksum, rest)


def parse_quoted(view: memoryview | bytes, header: IpHeader) -> icmp.Quoted:
    """Read the packet that the error in this packet quotes. Raises WireError."""
    of_family = icmp.parse_quoted if ip.is_ipv4(header.dst) else icmpv6.parse_quoted
    return of_family(view, header.begin, header.end)


def build_echo(kind: int, rest: int, src: int, dst: int, data: memoryview | bytes = b"") -> tuple[int, bytes]:
    """Protocol number and message of an ECHO_REQUEST or ECHO_REPLY of ICMP, in the family of src and dst."""
    if ip.is_ipv4(src):
        return ipv4.PROTO_ICMP, icmp.build(kind, 0, rest, data)
    return ipv6.PROTO_ICMPV6, icmpv6.build(_ECHO[kind], 0, rest, src, dst, data)
