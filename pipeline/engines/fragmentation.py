"""Cuts packets that are longer than the MTU into fragments (RFC 791 section 2.3, RFC 8200 section 4.5)."""

from collections.abc import Iterator

from pipeline.wire import ip, ipv4, ipv6


def packets(
    proto: int, src: int, dst: int, payload: memoryview | bytes, ident: int, mtu: int, tos: int = 0
) -> Iterator[tuple[bytes, memoryview | bytes]]:
    """(headers, payload) of a packet of either family, or of each of its fragments.

    ident: the identification of all of them. mtu: bytes of the longest packet, header included. tos: or
    traffic class.
    """
    cut = _ipv4_packets if ip.is_ipv4(src) else _ipv6_packets
    return cut(proto, src, dst, payload, ident, mtu, tos)


def _ipv4_packets(
    proto: int, src: int, dst: int, payload: memoryview | bytes, ident: int, mtu: int, tos: int
) -> Iterator[tuple[bytes, memoryview | bytes]]:
    """The same of an IPv4 packet. DF is not set."""
    room = mtu - ipv4.HEADER_LEN
    length = len(payload)
    if length > room:
        room = room // 8 * 8
    for off in range(0, length, room) if length else (0,):
        part = payload[off : off + room]
        more = ipv4.FLAG_MF if off + room < length else 0
        header = ipv4.build(
            ipv4.HEADER_LEN + len(part),
            ident,
            ipv4.DEFAULT_TTL,
            proto,
            src,
            dst,
            flags=more,
            frag_off=off,
            tos=tos,
        )
        yield header, part


def _ipv6_packets(
    proto: int, src: int, dst: int, payload: memoryview | bytes, ident: int, mtu: int, tos: int
) -> Iterator[tuple[bytes, memoryview | bytes]]:
    """The same of an IPv6 packet. ident: 32 bits."""
    length = len(payload)
    if ipv6.HEADER_LEN + length <= mtu:
        yield ipv6.build(length, proto, ipv6.DEFAULT_HOP_LIMIT, src, dst, tos), payload
        return
    room = (mtu - ipv6.HEADER_LEN - ipv6.FRAGMENT_HEADER_LEN) // 8 * 8
    for off in range(0, length, room):
        part = payload[off : off + room]
        header = ipv6.build(
            ipv6.FRAGMENT_HEADER_LEN + len(part),
            ipv6.PROTO_FRAGMENT,
            ipv6.DEFAULT_HOP_LIMIT,
            src,
            dst,
            tos,
        )
        yield header + ipv6.build_fragment(proto, off, off + room < length, ident), part
