"""Addresses in frames: every checksum stays right, and the way back gives the frame of the guest."""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.apart.inner import InnerAddresses
from pipeline.engines.apart.rewrite import NO_FIELD, rewrite
from pipeline.engines.apart.table import Claims, LinkNames
from pipeline.engines.apart.translation import Translation
from pipeline.engines.neighbors.addresses import GuestAddresses, Ipv6Addresses
from pipeline.wire import arp, checksum, dhcp, ethernet, icmp, icmpv6, ip, ipv4, ipv6, udp
from pipeline.wire.errors import WireError
from tests.support.frames import GATEWAY_MAC, tcp_frame, tcp_frame6, udp_frame, udp_frame6
from tests.support.ipv6 import advertisement, ping, router_solicitation, solicitation

PREFIX = ip.parse("fd12:3456:789a::")
GATEWAY = ip.parse_ipv4("192.168.127.1")
GATEWAY6 = PREFIX | 1
OWN = ip.parse_ipv4("192.168.127.15")
OWN6 = PREFIX | 0x15
LOCAL6 = ip.parse("fe80::5894:efff:fee4:cee")
REMOTE = ip.parse_ipv4("93.184.216.34")
REMOTE6 = ip.parse("2606:2800:220:1:248:1893:25c8:1946")
MAC = bytes.fromhex("5a94efe40cee")
V6 = Ipv6Addresses(PREFIX, GATEWAY_MAC, gateway=GATEWAY6, host=PREFIX | 2)
FROM4 = ethernet.header(GATEWAY_MAC, MAC, ethernet.TYPE_IPV4)
FROM6 = ethernet.header(GATEWAY_MAC, MAC, ethernet.TYPE_IPV6)


class Link:
    """The second of two links with the same addresses."""

    def __init__(self) -> None:
        addresses = GuestAddresses(ip.parse_ipv4("192.168.127.0"), 24, (GATEWAY,), V6)
        self.claims = Claims(addresses, InnerAddresses(PREFIX), GATEWAY_MAC, 1024)
        for link in (1, 2):
            self.claims.link_up(link, link)
        first, second = self.claims.names(1), self.claims.names(2)
        assert first is not None
        assert second is not None
        self.names: LinkNames = second
        self.claims.source_mac(first, MAC)
        for own in (OWN, OWN6, LOCAL6):
            self.claims.source(first, own)
        self.inward = Translation(second, self.claims)
        self.outward = Translation(second)

    def inner(self, own: int) -> int:
        return self.claims.source(self.names, own)

    @property
    def mac(self) -> bytes:
        return self.claims.source_mac(self.names, MAC)

    def come(self, frame: bytes, partial: int = NO_FIELD) -> bytes:
        """A frame of the guest, as demux gets it."""
        # At an odd offset, between bytes that must stay.
        view = bytearray(b"\xaa" * 7 + frame + b"\xbb" * 9)
        at = partial + 7 if partial != NO_FIELD else NO_FIELD
        rewrite(memoryview(view), 7, 7 + len(frame), self.inward, at)
        assert view[:7] == b"\xaa" * 7
        assert view[7 + len(frame) :] == b"\xbb" * 9
        return bytes(view[7 : 7 + len(frame)])

    def go(self, frame: bytes) -> bytes:
        """A frame of demux, as the guest gets it."""
        view = bytearray(frame)
        rewrite(view, 0, len(view), self.outward)
        return bytes(view)


@pytest.fixture
def link() -> Link:
    return Link()


def icmp_frame(message: bytes, src: int = OWN, dst: int = GATEWAY, header: bytes = FROM4) -> bytes:
    return header + ipv4.build(20 + len(message), 7, 64, ipv4.PROTO_ICMP, src, dst) + message


payloads = st.binary(max_size=300)


@given(payloads, st.integers(0, 0xFFFFFFFF), st.booleans())
@settings(max_examples=200, deadline=None)
def test_frames_are_those_that_a_guest_with_the_inner_address_would_send(
    payload: bytes, seq: int, summed: bool
) -> None:
    link = Link()
    inner, inner6, mac = link.inner(OWN), link.inner(OWN6), link.mac
    to4 = ethernet.header(GATEWAY_MAC, mac, ethernet.TYPE_IPV4)
    to6 = ethernet.header(GATEWAY_MAC, mac, ethernet.TYPE_IPV6)
    for own_frame, inner_frame in (
        (
            tcp_frame(seq, payload, src=OWN, eth_header=FROM4),
            tcp_frame(seq, payload, src=inner, eth_header=to4),
        ),
        (
            udp_frame(payload, src=OWN, eth_header=FROM4, summed=summed),
            udp_frame(payload, src=inner, eth_header=to4, summed=summed),
        ),
        (
            tcp_frame6(seq, payload, src=OWN6, eth_header=FROM6),
            tcp_frame6(seq, payload, src=inner6, eth_header=to6),
        ),
        (
            udp_frame6(payload, src=OWN6, eth_header=FROM6),
            udp_frame6(payload, src=inner6, eth_header=to6),
        ),
        (
            icmp_frame(icmp.build_echo(icmp.ECHO_REQUEST, 7, 1, payload)),
            icmp_frame(icmp.build_echo(icmp.ECHO_REQUEST, 7, 1, payload), src=inner, header=to4),
        ),
        (ping(OWN6, GATEWAY6, MAC, data=payload), ping(inner6, GATEWAY6, mac, data=payload)),
    ):
        assert link.come(own_frame).hex() == inner_frame.hex()
        assert swapped(link.go(swapped(link.come(own_frame)))).hex() == own_frame.hex()


def swapped(frame: bytes) -> bytes:
    """The same frame in the other direction. No checksum changes, but that of ICMP's type."""
    macs = frame[6:12] + frame[:6] + frame[12:14]
    if frame[12:14] == b"\x08\x00":
        return macs + frame[14:26] + frame[30:34] + frame[26:30] + frame[34:]
    return macs + frame[14:22] + frame[38:54] + frame[22:38] + frame[54:]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_partial_checksum_stays_the_sum_of_the_pseudo_header(link: Link, family: int, kind: str) -> None:
    own = OWN if family == 4 else OWN6
    remote = REMOTE if family == 4 else REMOTE6
    make = {(4, "tcp"): tcp_frame, (4, "udp"): udp_frame, (6, "tcp"): tcp_frame6, (6, "udp"): udp_frame6}
    words = (1, b"x" * 101) if kind == "tcp" else (b"x" * 101,)
    frame = bytearray(
        make[family, kind](*words, src=own, dst=remote, eth_header=FROM4 if family == 4 else FROM6)
    )
    start = 34 if family == 4 else 54
    field = start + (16 if kind == "tcp" else 6)
    proto = 6 if kind == "tcp" else 17
    length = len(frame) - start
    frame[field : field + 2] = checksum.fold(own + remote + proto + length).to_bytes(2, "big")
    came = link.come(bytes(frame), field)
    held = int.from_bytes(came[field : field + 2], "big")
    assert checksum.is_partial(held, link.inner(own) + remote + proto + length)


@pytest.mark.parametrize("at", range(14, 86, 2))
def test_no_offset_of_a_checksum_lets_a_guest_write_the_inner_address_of_another_link(
    link: Link, at: int
) -> None:
    """A guest knows by how much its addresses change, so it could choose what becomes of any word."""
    frame = advertisement(OWN6, LOCAL6, MAC, GATEWAY_MAC, GATEWAY6)
    assert len(frame) == 86
    want = link.come(frame)
    if at == 54 + 2:
        # That is the checksum. Demux finds it wrong.
        came = link.come(frame, at)
        assert came[:at] + came[at + 2 :] == want[:at] + want[at + 2 :]
        return
    with pytest.raises(WireError, match="link_frame_dropped_bad_vnet_header"):
        link.come(frame, at)


def test_arp_names_the_inner_address_and_the_answer_the_own_one(link: Link) -> None:
    def message(op: int, sha: bytes, spa: int, tha: bytes, tpa: int, dst: bytes) -> bytes:
        header = ethernet.header(dst, sha, ethernet.TYPE_ARP)
        return header + arp.build(op, sha, spa, tha, tpa) + bytes(18)

    inner, mac = link.inner(OWN), link.mac
    asked = message(arp.REQUEST, MAC, OWN, ethernet.ZERO, GATEWAY, ethernet.BROADCAST)
    assert link.come(asked) == message(arp.REQUEST, mac, inner, ethernet.ZERO, GATEWAY, ethernet.BROADCAST)
    reply = message(arp.REPLY, GATEWAY_MAC, GATEWAY, mac, inner, mac)
    assert link.go(reply) == message(arp.REPLY, GATEWAY_MAC, GATEWAY, MAC, OWN, MAC)
    gratuitous = message(arp.REQUEST, MAC, OWN, ethernet.ZERO, OWN, ethernet.BROADCAST)
    assert link.come(gratuitous) == message(arp.REQUEST, mac, inner, ethernet.ZERO, inner, ethernet.BROADCAST)
    probe = message(arp.REQUEST, MAC, 0, ethernet.ZERO, GATEWAY, ethernet.BROADCAST)
    assert link.come(probe) == message(arp.REQUEST, mac, 0, ethernet.ZERO, GATEWAY, ethernet.BROADCAST)
    question = message(arp.REQUEST, GATEWAY_MAC, GATEWAY, ethernet.ZERO, inner, mac)
    assert link.go(question) == message(arp.REQUEST, GATEWAY_MAC, GATEWAY, ethernet.ZERO, OWN, MAC)


@pytest.mark.parametrize("own", [OWN6, LOCAL6])
def test_neighbour_discovery_names_the_inner_address_with_right_checksums(link: Link, own: int) -> None:
    inner, mac = link.inner(own), link.mac
    for sent, wanted in (
        (solicitation(GATEWAY6, own, MAC), solicitation(GATEWAY6, inner, mac)),
        (solicitation(own, 0, MAC), solicitation(inner, 0, mac)),
        (
            advertisement(own, own, MAC, GATEWAY_MAC, GATEWAY6),
            advertisement(inner, inner, mac, GATEWAY_MAC, GATEWAY6),
        ),
        (router_solicitation(own, MAC), router_solicitation(inner, mac)),
    ):
        assert link.come(sent).hex() == wanted.hex()
    for made, wanted in (
        (solicitation(inner, V6.link_local, GATEWAY_MAC), solicitation(own, V6.link_local, GATEWAY_MAC)),
        (
            advertisement(GATEWAY6, GATEWAY6, GATEWAY_MAC, mac, inner),
            advertisement(GATEWAY6, GATEWAY6, GATEWAY_MAC, MAC, own),
        ),
    ):
        assert link.go(made).hex() == wanted.hex()


def test_the_packet_that_an_error_quotes_has_the_same_address_as_its_receiver(link: Link) -> None:
    inner, inner6, mac = link.inner(OWN), link.inner(OWN6), link.mac
    to_guest = udp_frame(b"payload", src=GATEWAY, dst=OWN)[14:]
    to_inner = udp_frame(b"payload", src=GATEWAY, dst=inner)[14:]
    error = icmp_frame(icmp.build(icmp.UNREACHABLE, icmp.PORT_UNREACHABLE, 0, to_guest))
    came = link.come(error)
    header = ipv4.parse(came, 14, len(came))
    icmp.parse(came, 34, len(came))
    quoted = icmp.parse_quoted(came, 34, len(came))
    assert (header.src, quoted.dst) == (inner, inner)
    assert came[42:62] == to_inner[:20]
    from_inner = udp_frame(b"payload", src=inner, dst=REMOTE)[14:]
    made = icmp_frame(
        icmp.build(icmp.UNREACHABLE, 1, 0, from_inner), src=GATEWAY, dst=inner, header=mac + FROM4[6:]
    )
    got = link.go(made)
    icmp.parse(got, 34, len(got))
    assert icmp.parse_quoted(got, 34, len(got)).src == OWN
    assert ipv4.parse(got, 14, len(got)).dst == OWN
    assert ipv4.parse(got, 42, len(got)).src == OWN
    says = icmp.Says(icmpv6.UNREACHABLE, icmpv6.PORT_UNREACHABLE, 0)
    quoted6 = udp_frame6(b"payload", src=GATEWAY6, dst=OWN6)[14:]
    came6 = link.come(
        icmpv6.frame(GATEWAY_MAC, MAC, OWN6, GATEWAY6, icmpv6.build_error(says, quoted6, OWN6, GATEWAY6))
    )
    icmpv6.parse(came6, 54, len(came6), inner6, GATEWAY6)
    assert icmpv6.parse_quoted(came6, 54, len(came6)).dst == inner6


def dhcp_frame(op: int, mac: bytes, src: int, dst: int, header: bytes, ports: tuple[int, int]) -> bytes:
    message = dhcp.build(
        dhcp.Message(op, 7, mac, {dhcp.MESSAGE_TYPE: b"\x01", dhcp.CLIENT_ID: b"\x01" + MAC})
    )
    return udp_frame(message, src=src, dst=dst, eth_header=header, sport=ports[0], dport=ports[1])


def test_a_client_of_dhcp_has_its_own_hardware_address_and_the_server_the_inner_one(link: Link) -> None:
    mac = link.mac
    header = ethernet.header(ethernet.BROADCAST, MAC, ethernet.TYPE_IPV4)
    inner_header = ethernet.header(ethernet.BROADCAST, mac, ethernet.TYPE_IPV4)
    asked = dhcp_frame(1, MAC, 0, ip.BROADCAST, header, (68, 67))
    assert link.come(asked) == dhcp_frame(1, mac, 0, ip.BROADCAST, inner_header, (68, 67))
    header = ethernet.header(ethernet.BROADCAST, GATEWAY_MAC, ethernet.TYPE_IPV4)
    reply = dhcp_frame(2, mac, GATEWAY, ip.BROADCAST, header, (67, 68))
    assert link.go(reply) == dhcp_frame(2, MAC, GATEWAY, ip.BROADCAST, header, (67, 68))


def test_the_checksum_of_fragments_is_that_of_the_whole(link: Link) -> None:
    inner = link.inner(OWN)
    payload = os.urandom(3000)
    whole = udp_frame(payload, src=OWN, dst=REMOTE)[34:]
    parts = []
    for begin in range(0, len(whole), 1480):
        part = whole[begin : begin + 1480]
        more = ipv4.FLAG_MF if begin + 1480 < len(whole) else 0
        head = ipv4.build(20 + len(part), 7, 64, 17, OWN, REMOTE, flags=more, frag_off=begin)
        came = link.come(FROM4 + head + part)
        assert ipv4.parse(came, 14, len(came)).src == inner
        parts.append(came[34:])
    made = b"".join(parts)
    udp.verify(memoryview(made), 0, udp.parse(memoryview(made), 0, len(made)), inner, REMOTE)
    inner6 = link.inner(OWN6)
    whole = udp_frame6(payload, src=OWN6, dst=REMOTE6)[54:]
    parts = []
    for begin in range(0, len(whole), 1232):
        part = whole[begin : begin + 1232]
        extension = ipv6.build_fragment(17, begin, begin + 1232 < len(whole), 7)
        head = ipv6.build(8 + len(part), ipv6.PROTO_FRAGMENT, 64, OWN6, REMOTE6)
        came = link.come(FROM6 + head + extension + part)
        parts.append(came[62:])
    made = b"".join(parts)
    udp.verify(memoryview(made), 0, udp.parse(memoryview(made), 0, len(made)), inner6, REMOTE6)


def test_headers_before_the_checksum_are_skipped(link: Link) -> None:
    inner, inner6 = link.inner(OWN), link.inner(OWN6)
    frame = tcp_frame(1, b"data", src=OWN, dst=REMOTE, eth_header=FROM4)
    options = b"\x94\x04\x00\x00"
    head = bytearray(frame[14:34] + options)
    head[0] = 0x46
    head[2:4] = (len(frame) - 14 + 4).to_bytes(2, "big")
    head[10:12] = b"\0\0"
    head[10:12] = checksum.checksum(bytes(head)).to_bytes(2, "big")
    came = link.come(FROM4 + head + frame[34:])
    assert ipv4.parse(came, 14, len(came)).src == inner
    assert came[38:] == tcp_frame(1, b"data", src=inner, dst=REMOTE)[34:]
    frame = tcp_frame6(1, b"data", src=OWN6, dst=REMOTE6, eth_header=FROM6)
    hop_by_hop = bytes((6, 0, 5, 2, 0, 0, 1, 0))
    head6 = ipv6.build(len(frame) - 54 + 8, 0, 64, OWN6, REMOTE6)
    came = link.come(FROM6 + head6 + hop_by_hop + frame[54:])
    assert came[62:] == tcp_frame6(1, b"data", src=inner6, dst=REMOTE6)[54:]


def test_frames_of_a_guest_without_inner_addresses_stay_as_they_are(link: Link) -> None:
    first = link.claims.names(1)
    assert first is not None
    for frame in (
        tcp_frame(1, b"data", src=OWN, eth_header=FROM4),
        solicitation(OWN6, 0, MAC),
        udp_frame6(b"data", src=OWN6, eth_header=FROM6),
    ):
        view = bytearray(frame)
        rewrite(view, 0, len(view), Translation(first, link.claims))
        assert view == frame
        rewrite(view, 0, len(view), Translation(first))
        assert view == frame


def sums_of(frame: bytes) -> list[bool]:
    """Which checksums of a frame are right: the IPv4 header's and the upper one's, if they can be read."""
    view = memoryview(frame)
    found = []
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
        found.append(int.from_bytes(frame[14 : 14 + (frame[14] & 15) * 4], "big") % 0xFFFF == 0)
        try:
            header = ipv4.parse(view, 14, len(frame))
        except WireError:
            return found
        begin, end = 14 + header.ihl, 14 + header.total_len
        if not header.frag_off and header.proto in (6, 17) and end - begin >= 20:
            pseudo = header.src + header.dst + header.proto + end - begin
            found.append(checksum.verify(frame[begin:end], pseudo))
    elif frame[12:14] == b"\x86\xdd":
        try:
            header6 = ipv6.parse(view, 14, len(frame))
            end = 54 + header6.payload_len
            upper = ipv6.walk(view, 54, end, header6.next_header)
        except WireError:
            return found
        if not upper.frag_off and upper.proto in (6, 17, 58) and end - upper.off >= 20:
            pseudo = header6.src + header6.dst + upper.proto + end - upper.off
            found.append(checksum.verify(frame[upper.off : end], pseudo))
    return found


BASES = (
    tcp_frame(1, b"data" * 9, src=OWN, eth_header=FROM4),
    udp_frame(b"data" * 9, src=OWN, eth_header=FROM4),
    tcp_frame6(1, b"data" * 9, src=OWN6, eth_header=FROM6),
    udp_frame6(b"data" * 9, src=OWN6, eth_header=FROM6),
    icmp_frame(icmp.build(icmp.UNREACHABLE, 3, 0, udp_frame(b"payload", src=GATEWAY, dst=OWN)[14:])),
    solicitation(GATEWAY6, OWN6, MAC),
    solicitation(OWN6, 0, MAC),
    advertisement(OWN6, OWN6, MAC, GATEWAY_MAC, GATEWAY6),
    ping(LOCAL6, V6.link_local, MAC),
    dhcp_frame(1, MAC, 0, ip.BROADCAST, ethernet.BROADCAST + FROM4[6:], (68, 67)),
    FROM4[:12] + b"\x08\x06" + arp.build(arp.REQUEST, MAC, OWN, ethernet.ZERO, GATEWAY),
)


@given(st.sampled_from(BASES), st.integers(0, 2**32), st.integers(0, 4), st.integers(0, 400), st.booleans())
@settings(max_examples=1500, deadline=None)
def test_a_hostile_frame_is_dropped_or_has_the_checksums_that_it_had(
    base: bytes, seed: int, changes: int, length: int, outward: bool
) -> None:
    rng = random.Random(seed)
    frame = bytearray(base[: max(length, 1)] if length < 200 else base)
    for _ in range(changes):
        frame[rng.randrange(len(frame))] = rng.randrange(256)
    link = Link()
    link.inner(OWN6)
    before = sums_of(bytes(frame))
    try:
        after = link.go(bytes(frame)) if outward else link.come(bytes(frame))
    except WireError:
        return
    assert len(after) == len(frame)
    # An upper checksum that the sender left out stays left out. It verifies by chance at most.
    if not is_unsummed(bytes(frame)):
        assert sums_of(after) == before
    if not outward and len(after) >= ethernet.HEADER_LEN:
        assert after[6:12] != MAC


def is_unsummed(frame: bytes) -> bool:
    """Whether the checksum of a datagram is zero."""
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34 and frame[23] == 17:
        begin = 14 + (frame[14] & 15) * 4
        return frame[begin + 6 : begin + 8] == b"\0\0"
    return frame[12:14] == b"\x86\xdd" and frame[60:62] == b"\0\0"
