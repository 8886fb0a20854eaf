"""Cuts packets that are longer than the MTU into fragments (RFC 791 section 2.3, RFC 8200 section 4.5)."""

from collections.abc import Iterator

from pipeline.wire import ipv4, ipv6


def packets(
    proto: int, src: int, dst: int, payload: memoryview | bytes, ident: int, mtu: int, tos: int = 0
) -> Iterator[tuple[bytes, memoryview | bytes]]:
    """(IPv4 header, payload) of the packet, or of each of its fragments. DF is not set.

    ident: the identification of all of them. mtu: bytes of the longest packet, header included.
    """
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


def ipv6_packets(
    proto: int, src: int, dst: int, payload: memoryview | bytes, ident: int, mtu: int
) -> Iterator[tuple[bytes, memoryview | bytes]]:
    """(headers, payload) of each fragment of an IPv6 packet. ident: 32 bits."""
    room = (mtu - ipv6.HEADER_LEN - ipv6.FRAGMENT_HEADER_LEN) // 8 * 8
    length = len(payload)
    for off in range(0, length, room):
        part = payload[off : off + room]
        header = ipv6.build(
            ipv6.FRAGMENT_HEADER_LEN + len(part), ipv6.PROTO_FRAGMENT, ipv6.DEFAULT_HOP_LIMIT, src, dst
        )
        yield header + ipv6.build_fragment(proto, off, off + room < length, ident), part
