"""What the headers of one whole IP packet say, in the same words for both families."""

from typing import NamedTuple

from pipeline.wire import ip, ipv4, ipv6


class IpHeader(NamedTuple):
    """The headers of a packet that is no fragment.

    proto: of the payload. hops_left: TTL or hop limit. traffic_class: TOS or traffic class.
    dont_fragment: no router may cut the packet. None ever does over IPv6.
    begin, end: offsets of the payload, after all extension headers or options.
    """

    src: int
    dst: int
    proto: int
    hops_left: int
    traffic_class: int
    dont_fragment: bool
    begin: int
    end: int

    @property
    def is_icmp(self) -> bool:
        """Whether the payload is a message of the family's ICMP."""
        return self.proto == (ipv4.PROTO_ICMP if ip.is_ipv4(self.dst) else ipv6.PROTO_ICMPV6)


def of_ipv4(header: ipv4.Header, off: int) -> IpHeader:
    """The same of an IPv4 packet at ``off``."""
    return IpHeader(
        header.src,
        header.dst,
        header.proto,
        header.ttl,
        header.tos,
        header.flags & ipv4.FLAG_DF != 0,
        off + header.ihl,
        off + header.total_len,
    )


def of_ipv6(header: ipv6.Header, upper: ipv6.Upper, off: int) -> IpHeader:
    """The same of an IPv6 packet at ``off``. upper: what walk() found."""
    return IpHeader(
        header.src,
        header.dst,
        upper.proto,
        header.hop_limit,
        header.traffic_class,
        True,
        upper.off,
        off + ipv6.HEADER_LEN + header.payload_len,
    )


def parse(view: memoryview | bytes, off: int, end: int) -> IpHeader:
    """Read the headers of the packet in view[off:end], which is of either family. Raises WireError."""
    if end > off and view[off] >> 4 == 6:
        header = ipv6.parse(view, off, end)
        begin = off + ipv6.HEADER_LEN
        return of_ipv6(header, ipv6.walk(view, begin, begin + header.payload_len, header.next_header), off)
    return of_ipv4(ipv4.parse(view, off, end), off)


def shortest(addr: int) -> int:
    """Bytes of the shortest header of a packet to this address: without options or extension headers."""
    return ipv4.HEADER_LEN if ip.is_ipv4(addr) else ipv6.HEADER_LEN


def build(payload_len: int, ident: int, proto: int, src: int, dst: int) -> bytes:
    """A shortest header of the family of src and dst. ident: IPv4's identification."""
    if ip.is_ipv4(src):
        return ipv4.build(ipv4.HEADER_LEN + payload_len, ident, ipv4.DEFAULT_TTL, proto, src, dst)
    return ipv6.build(payload_len, proto, ipv6.DEFAULT_HOP_LIMIT, src, dst)
