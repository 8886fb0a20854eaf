"""Guests by hand whose frames have priority tags, or checksums that were left to a network card."""

from collections.abc import Callable, Iterator

import pytest

from pipeline.wire import arp, ethernet, icmp, ip, ipv4, tcp
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.offload import left_out
from tests.support.raw_guest import GATEWAY, RawGuest
from tests.support.servers import UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

INTERNET = ip.parse_ipv4(INTERNET_ADDR)
CLOSED_PORT = 9


@pytest.fixture(scope="module")
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    """One daemon for all."""
    with Daemon(network) as made:
        yield made


_numbers = iter(range(10, 250))


@pytest.fixture
def guest(daemon: Daemon) -> Iterator[RawGuest]:
    """A guest that nobody knows yet."""
    with RawGuest(daemon.qemu_socket, next(_numbers)) as made:
        yield made


@pytest.fixture
def other(daemon: Daemon) -> Iterator[RawGuest]:
    """One beside it."""
    with RawGuest(daemon.qemu_socket, next(_numbers)) as made:
        yield made


@pytest.fixture
def counted(daemon: Daemon) -> Callable[[str], int]:
    """How much a counter has grown since the test began, summed over the workers."""
    before: dict[str, int] = {}

    def total(name: str) -> int:
        return sum(daemon.gauge(name).values())

    for name in ("demux_frame_dropped_unknown_ethertype", "udp_datagram_dropped_bad_checksum"):
        before[name] = total(name)
    return lambda name: total(name) - before.get(name, 0)


def tagged(frame: bytes, *tags: str) -> bytes:
    """The frame with tags, in hexadecimal digits."""
    return frame[:12] + bytes.fromhex("".join(tags)) + frame[12:]


@pytest.mark.parametrize(
    "tags",
    [("81000005",), ("88a80fff",), ("8100a000", "81000005"), ("81000005", "81000000"), ("81000000",) * 3],
    ids=" ".join,
)
def test_vlan_tags_are_no_protocol_of_ours(
    guest: RawGuest, counted: Callable[[str], int], tags: tuple[str, ...]
) -> None:
    frame = guest.segment(INTERNET, 1, 2, 3, flags=tcp.SYN)
    guest.send(*[tagged(frame, *tags)] * 20)
    wait_for(lambda: counted("demux_frame_dropped_unknown_ethertype") == 20, "every one is counted")
    assert guest.receive() == []


@pytest.mark.parametrize("length", [14, 15, 16, 17])
def test_a_truncated_tag_is_counted(guest: RawGuest, counted: Callable[[str], int], length: int) -> None:
    guest.send(tagged(guest.to_gateway, "8100a000")[:length])
    wait_for(lambda: counted("demux_frame_dropped_unknown_ethertype") == 1, "it is counted")


@pytest.mark.parametrize("tags", [("8100a000",), ("88a80000",), ("88a8e000", "81006000")], ids=" ".join)
def test_a_guest_with_priority_tags_is_served_as_any_other(
    guest: RawGuest, counted: Callable[[str], int], tags: tuple[str, ...]
) -> None:
    body = arp.build(arp.REQUEST, guest.mac, guest.addr, bytes(6), GATEWAY)
    asked = ethernet.header(ethernet.BROADCAST, guest.mac, ethernet.TYPE_ARP) + body
    guest.send(tagged(asked, *tags))
    (answer,) = guest.receive(2.0)
    assert arp.parse(answer, 14, len(answer)).op == arp.REPLY
    message = icmp.build(icmp.ECHO_REQUEST, 0, 7, b"ping")
    guest.send(tagged(guest.packet(ipv4.PROTO_ICMP, GATEWAY, message), *tags))
    (answer,) = guest.receive(2.0)
    assert icmp.parse(answer, 34, len(answer)).type == icmp.ECHO_REPLY
    guest.send(tagged(guest.datagram(INTERNET, 4000, UDP_ECHO, b"datagram"), *tags))
    (answer,) = guest.receive(2.0)
    assert answer[42:] == b"datagram"
    guest.send(tagged(guest.segment(INTERNET, 4000, CLOSED_PORT, 3, flags=tcp.SYN), *tags))
    (refused,) = guest.tcp(guest.receive(2.0))
    assert refused.header.flags & tcp.RST
    assert counted("demux_frame_dropped_unknown_ethertype") == 0


def test_a_priority_tagged_frame_to_another_guest_goes_out_untagged(guest: RawGuest, other: RawGuest) -> None:
    other.send(other.packet(ipv4.PROTO_ICMP, GATEWAY, icmp.build(icmp.ECHO_REQUEST, 0, 7, b"here I am")))
    assert other.receive(2.0)
    to_other = ethernet.header(other.mac, guest.mac, 0x88B5)
    for kind in (0x88B5, ethernet.TYPE_IPV4):
        to_other = ethernet.header(other.mac, guest.mac, kind)
        frame = to_other + guest.datagram(other.addr, 4000, 4001, b"between guests")[14:]
        guest.send(tagged(frame, "8100a000"), tagged(to_other + b"in a VLAN" * 8, "8100a000", "81000005"))
        assert other.receive(2.0) == [frame, tagged(to_other + b"in a VLAN" * 8, "81000005")]


# --- checksums that were left to a card --------------------------------------------------------


def test_a_packet_that_gro_leaves_alone_needs_no_checksum(
    guest: RawGuest, counted: Callable[[str], int]
) -> None:
    whole = guest.datagram(INTERNET, 4000, UDP_ECHO, b"options")[34:]
    guest.send(left_out(guest.packet(ipv4.PROTO_UDP, INTERNET, whole, options=b"\1\1\1\0")))
    (answer,) = guest.receive(2.0)
    assert answer[42:] == b"options"
    syn = guest.segment(INTERNET, 4000, CLOSED_PORT, 3, flags=tcp.SYN)[34:]
    guest.send(left_out(guest.packet(ipv4.PROTO_TCP, INTERNET, syn, options=b"\1\1\1\0")))
    (refused,) = guest.tcp(guest.receive(2.0))
    assert refused.header.flags & tcp.RST
    assert counted("udp_datagram_dropped_bad_checksum") == counted("tcp_segment_dropped_bad_checksum") == 0


def test_fragments_of_a_datagram_without_checksum_are_a_datagram(guest: RawGuest) -> None:
    whole = left_out(guest.datagram(INTERNET, 4000, UDP_ECHO, b"f" * 3000))[34:]
    guest.send(
        guest.packet(ipv4.PROTO_UDP, INTERNET, whole[:1480], more=True),
        guest.packet(ipv4.PROTO_UDP, INTERNET, whole[1480:], frag=1480),
    )
    assert len(guest.receive(2.0)) == 3


def test_an_error_quotes_the_checksum_that_a_card_would_have_made(guest: RawGuest) -> None:
    frame = bytearray(guest.datagram(INTERNET, 4000, 33434, b"trace"))
    frame[22] = 1
    frame[24:26] = b"\0\0"
    frame[24:26] = (0xFFFF - int.from_bytes(frame[14:34], "big") % 0xFFFF).to_bytes(2, "big")
    guest.send(left_out(bytes(frame)))
    (answer,) = guest.receive(2.0)
    assert icmp.parse(answer, 34, len(answer)).type == icmp.TIME_EXCEEDED
    assert answer[42 + 20 : 42 + 28] == frame[34:42]


def test_a_wrong_checksum_is_counted_as_ever(guest: RawGuest, counted: Callable[[str], int]) -> None:
    frame = bytearray(left_out(guest.datagram(INTERNET, 4000, UDP_ECHO, b"wrong")))
    frame[41] ^= 1
    guest.send(*[bytes(frame)] * 20)
    wait_for(lambda: counted("udp_datagram_dropped_bad_checksum") == 20, "every one is counted")


def test_what_goes_to_another_guest_has_its_checksum_and_fits_the_mtu(
    guest: RawGuest, other: RawGuest
) -> None:
    other.send(other.packet(ipv4.PROTO_ICMP, GATEWAY, icmp.build(icmp.ECHO_REQUEST, 0, 7, b"here I am")))
    assert other.receive(2.0)
    to_other = ethernet.header(other.mac, guest.mac, ethernet.TYPE_IPV4)
    to_group = ethernet.header(bytes.fromhex("01005e0000fb"), guest.mac, ethernet.TYPE_IPV4)
    group = ip.parse_ipv4("224.0.0.251")
    whole = to_other + guest.datagram(other.addr, 4000, 4001, b"w" * 100)[14:]
    options = guest.packet(ipv4.PROTO_UDP, other.addr, whole[34:], options=b"\1\1\1\0")
    multicast = to_group + guest.datagram(group, 5353, 5353, b"m" * 100)[14:]
    for frame in (whole, to_other + options[14:], multicast):
        guest.send(left_out(frame))
        assert other.receive(2.0) == [frame]
    segment = to_other + guest.segment(other.addr, 4000, 4001, 5, b"s" * 60000)[14:]
    guest.send(left_out(segment))
    frames = other.receive(2.0)
    assert [len(frame) for frame in frames] == [1514] * 41 + [54 + 60000 % 1460]
    assert b"".join(got.payload for got in guest.tcp(frames)) == b"s" * 60000
    for to, addr in ((to_other, other.addr), (to_group, group)):
        guest.send(left_out(to + guest.datagram(addr, 4000, 4001, b"d" * 20000)[14:]))
        frames = other.receive(2.0)
        assert [len(frame) for frame in frames] == [1514] * 13 + [14 + 20 + 20008 - 13 * 1480]
        assert {bytes(frame[:6]) for frame in frames} == {to[:6]}
