"""What the wire fuzzer calls with any bytes: every parser, and GRO over a burst of frames.

A parser may refuse with a WireError whose reason has a counter; anything else is a bug. What it
accepts must come back from the builder, where there is one.
"""

from pipeline.counters import INDEX
from pipeline.engines.dns import answers
from pipeline.engines.dns import message as dns_message
from pipeline.engines.offload import gro
from pipeline.wire import (
    arp,
    dhcp,
    dhcpv6,
    ethernet,
    fragment,
    framing,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    tcp,
    tcp_options,
    udp,
    virtio_net,
)
from pipeline.wire.errors import WireError
from tests.support.fuzz import parsed
from tests.support.segments import segment_of

MAX_FRAMES = 16


def one_input(data: bytes) -> None:
    """The first byte chooses the parser, the rest is its input."""
    if not data:
        return
    view = memoryview(data)[1:]
    try:
        TARGETS[data[0] % len(TARGETS)](view)
    except WireError as error:
        reason = error.reason
    else:
        return
    assert reason in INDEX, reason


def _ethernet(view: memoryview) -> None:
    dst, src, kind = ethernet.parse_header(view, 0, len(view))
    assert ethernet.header(dst, src, kind) == view[: ethernet.HEADER_LEN]


def _arp(view: memoryview) -> None:
    message = arp.parse(view, 0, len(view))
    assert arp.build(*message) == view[: arp.LEN]


def _ipv4(view: memoryview) -> None:
    header = ipv4.parse(view, 0, len(view))
    assert ipv4.HEADER_LEN <= header.ihl <= header.total_len <= len(view)


def _icmp(view: memoryview) -> None:
    message = icmp.parse(view, 0, len(view))
    if message.type in icmp.ERRORS:
        icmp.parse_quoted(view, 0, len(view))


def _ipv6(view: memoryview) -> None:
    """A packet: a fragment, or an ICMPv6 message whether its checksum is right or not."""
    header = ipv6.parse(view, 0, len(view))
    end = ipv6.HEADER_LEN + header.payload_len
    upper = ipv6.walk(view, ipv6.HEADER_LEN, end, header.next_header)
    assert ipv6.HEADER_LEN <= upper.off <= end <= len(view)
    if upper.has_fragment:
        piece = fragment.from_ipv6(0, header, upper)
        assert ipv6.HEADER_LEN < piece.begin <= piece.end == end
        head, payload = bytes(view[: piece.begin]), bytes(view[piece.begin : end])
        assert len(fragment.join(head, piece.next_header_at, payload)) == end - ipv6.FRAGMENT_HEADER_LEN
        return
    if end > upper.off and icmpv6.is_error(view[upper.off]):
        icmpv6.parse_quoted(view, upper.off, end)
    if end - upper.off >= icmpv6.HEADER_LEN and view[upper.off] in icmpv6.FROM_HOSTS:
        found = icmpv6.parse_discovery(view, upper.off, end, header)
        assert len(found.mac) in (0, 6)
    icmpv6.parse(view, upper.off, end, header.src, header.dst)


def _udp(view: memoryview) -> None:
    header = udp.parse(view, 0, len(view))
    assert header.length <= len(view)


def _tcp(view: memoryview) -> None:
    header = tcp.parse(view, 0, len(view))
    assert tcp.HEADER_LEN <= header.header_len <= len(view)
    tcp_options.parse(view, tcp.HEADER_LEN, header.header_len)


def _options(view: memoryview) -> None:
    options = tcp_options.parse(view, 0, min(len(view), tcp.MAX_OPTIONS_LEN))
    built = tcp_options.build(options.has_ts, options.ts_val, options.ts_ecr, options.sack)
    again = tcp_options.parse(built, 0, len(built))
    assert again.ts_val == options.ts_val
    assert again.sack == options.sack[: len(again.sack)]
    syn = tcp_options.build_syn(options.mss, options.wscale, options.sack_permitted)
    assert tcp_options.parse(syn, 0, len(syn))[:3] == options[:3]


def _dhcp(view: memoryview) -> None:
    """A message of DHCPv6, then one of DHCP."""
    message = parsed(dhcpv6.parse, view, 0, len(view))
    if message is not None:
        assert dhcpv6.build(message) == view
        parsed(list, message.ias())
        parsed(message.requested)
    dhcp.parse(view, 0, len(view))


def _framing(view: memoryview) -> None:
    for kind in (framing.QEMU, framing.LE16):
        frames, rest = framing.split(view, 0, len(view), kind)
        assert all(off + length <= len(view) for off, length in frames)
        assert rest <= len(view)
        framing.need(view, rest, len(view), kind)


def _virtio(view: memoryview) -> None:
    for length in (virtio_net.SHORT_LEN, virtio_net.SHORT_LEN + 2):
        virtio_net.parse(view, 0, len(view), length)


def _vpnkit(view: memoryview) -> None:
    framing.parse_vpnkit_hello(view)
    framing.parse_vpnkit_command(view)


def _dns(view: memoryview) -> None:
    wire = bytes(view)
    for tcp_query in (False, True):
        dns_message.parse_query(wire, tcp=tcp_query)
    answers.asked(wire)
    answers.given(wire)


def _segment(view: memoryview) -> None:
    segment_of(view)


def _gro(view: memoryview) -> None:
    """Frames of lengths that the first bytes name, checksums vouched for so that more gets further."""
    if len(view) <= MAX_FRAMES:
        return
    verify, ipv6 = bool(view[0] & 1), bool(view[0] & 2)
    frames, at = [], MAX_FRAMES
    for length in view[1:MAX_FRAMES]:
        if at >= len(view):
            break
        frames.append((at, min(length, len(view) - at)))
        at += length
    items, drops = gro.coalesce(view, frames, verify=verify, ipv6=ipv6)
    assert len(items) + sum(drops.values()) <= len(frames)
    assert all(reason in INDEX for reason in drops)


TARGETS = (
    _ethernet,
    _arp,
    _ipv4,
    _icmp,
    _udp,
    _tcp,
    _options,
    _dhcp,
    _framing,
    _virtio,
    _vpnkit,
    _segment,
    _gro,
    _dns,
    _ipv6,
)
