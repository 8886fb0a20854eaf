"""Guests that do what no honest guest does: that it is counted, bounded, and costs nobody else anything.

One daemon with low limits serves the whole module; every test comes as a guest of its own, with frames
made by hand. Spoofed addresses, runts and giants are in test_switch_hostile.py.
"""

import random
import socket
from collections.abc import Callable, Iterator
from struct import pack_into

import pytest

from pipeline.wire import arp, dhcp, ethernet, icmp, ip, ipv4, tcp
from tests.support.daemon import Daemon
from tests.support.frames import GATEWAY_MAC
from tests.support.metrics import counted as read_counters
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.raw_guest import GATEWAY, RawGuest, Stream
from tests.support.servers import DATA, DNS, EARLY, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

INTERNET = ip.parse_ipv4(INTERNET_ADDR)
SILENT = ip.parse_ipv4("198.18.0.99")
CLOSED_PORT = 9
MAX_HALF_OPEN = 20
MAX_SYNS = 200
MAX_FLOWS = 60
LIMITS = {
    "max-half-open-per-guest": MAX_HALF_OPEN,
    "max-syns-per-second": MAX_SYNS,
    "max-tcp-flows-per-guest": MAX_FLOWS,
    "max-reassembly-ranges": 64,
    "max-udp-flows-per-second": 100,
    "max-udp-flows-per-guest": 50,
    "max-answers-per-second": 100,
    # Low enough for a slow machine's flood to exceed it.
    "max-dns-queries-per-second": 500,
}


@pytest.fixture(scope="module")
def hostile_daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    """One daemon for all; what must hold when it stops is checked behind the last test."""
    flags = [word for key, value in LIMITS.items() for word in ("-limit", f"{key}={value}")]
    with Daemon(network, *flags, name="hostile") as made:
        yield made


_numbers = iter(range(10, 250))


@pytest.fixture
def guest(hostile_daemon: Daemon) -> Iterator[RawGuest]:
    """A guest that nobody knows yet."""
    with RawGuest(hostile_daemon.qemu_socket, next(_numbers)) as made:
        yield made


@pytest.fixture
def other(hostile_daemon: Daemon) -> Iterator[RawGuest]:
    """An honest one beside it."""
    with RawGuest(hostile_daemon.qemu_socket, next(_numbers)) as made:
        yield made


@pytest.fixture
def echo(guest: RawGuest) -> Iterator[Stream]:
    """A connection to the echo server."""
    stream = guest.connect(INTERNET, 4000, ECHO)
    yield stream
    stream.reset()


@pytest.fixture
def counted(hostile_daemon: Daemon) -> Callable[[str], int]:
    """A counter over all workers, since the test began."""

    def total(name: str) -> int:
        return sum(hostile_daemon.gauge(name).values())

    rows = read_counters(hostile_daemon.api("/metrics")[1].decode()).items()
    before = {name: sum(values.values()) for name, values in rows}
    return lambda name: total(name) - before[name]


# --- TCP -----------------------------------------------------------------------------------


def test_a_syn_flood_is_bounded_in_rate_and_number_and_leaves_room_for_others(
    guest: RawGuest, other: RawGuest, counted: Callable[[str], int]
) -> None:
    guest.send(*(guest.segment(SILENT, 10000 + n, 80, n, flags=tcp.SYN) for n in range(2000)))
    wait_for(lambda: counted("tcp_syn_dropped_rate_limit") > 0, "SYNs are dropped for their rate")
    assert counted("tcp_flow_evicted_half_open") > 0
    assert counted("tcp_flow_opened") - counted("tcp_flow_evicted_half_open") <= MAX_HALF_OPEN
    assert guest.connect(INTERNET, 4000, ECHO).echoes(b"its own next one")
    assert other.connect(INTERNET, 4000, ECHO).echoes(b"still here")


def test_connections_over_the_limit_are_refused_until_one_ends(
    guest: RawGuest, counted: Callable[[str], int]
) -> None:
    streams = [guest.connect(INTERNET, 5000 + n, ECHO) for n in range(MAX_FLOWS)]
    guest.send(guest.segment(INTERNET, 6000, ECHO, 1, flags=tcp.SYN))
    wait_for(lambda: counted("tcp_syn_dropped_too_many_flows_of_guest") == 1, "the SYN is dropped")
    streams[0].reset()
    assert guest.connect(INTERNET, 6000, ECHO).echoes(b"room again")
    for stream in streams:
        stream.reset()


def test_a_connection_in_time_wait_makes_room_for_a_new_one(
    guest: RawGuest, counted: Callable[[str], int]
) -> None:
    streams = [guest.connect(INTERNET, 5000 + n, ECHO) for n in range(MAX_FLOWS - 1)]
    # A server that ends first leaves the daemon's side in TIME-WAIT.
    first = guest.connect(INTERNET, 4999, EARLY)
    assert first.receive(5) == b"early"
    guest.send(first.segment(flags=tcp.FIN | tcp.ACK, ack=1))
    guest.receive()
    assert guest.connect(INTERNET, 6000, ECHO).echoes(b"in its place")
    assert counted("tcp_flow_evicted_time_wait") == 1
    for stream in streams:
        stream.reset()


def test_blind_resets_change_nothing(echo: Stream, counted: Callable[[str], int]) -> None:
    offsets = random.Random(1).sample(range(1, 60000), 500)
    echo.guest.send(*(echo.segment(at=offset, flags=tcp.RST) for offset in offsets))
    wait_for(
        lambda: (
            counted("tcp_segment_dropped_bad_reset") + counted("tcp_segment_dropped_challenge_limit") == 500
        ),
        "every one is counted",
    )
    assert counted("tcp_segment_dropped_challenge_limit") > 400
    assert echo.echoes(b"alive")


def test_resets_without_a_connection_are_not_answered(guest: RawGuest) -> None:
    guest.send(*(guest.segment(INTERNET, 7000 + n, 80, n, flags=tcp.RST) for n in range(500)))
    assert list(guest.tcp(guest.receive())) == []


def test_segments_without_a_connection_are_reset_one_by_one(
    guest: RawGuest, counted: Callable[[str], int]
) -> None:
    guest.send(*(guest.segment(INTERNET, 7000 + n, 80, n, b"data", ack=5) for n in range(50)))
    answers = list(guest.tcp(guest.receive()))
    assert len(answers) == counted("tcp_reset_sent_no_flow") == 50
    assert all(got.header.flags & tcp.RST and got.header.seq == 5 for got in answers)


def test_acknowledgments_of_unsent_data_change_nothing(echo: Stream, counted: Callable[[str], int]) -> None:
    echo.guest.send(*(echo.segment(ack=1 + n * 1000) for n in range(300)))
    wait_for(
        lambda: (
            counted("tcp_segment_dropped_bad_ack") + counted("tcp_segment_dropped_challenge_limit") == 300
        ),
        "every one is counted",
    )
    assert echo.echoes(b"alive")


def test_a_window_that_shrinks_and_closes_loses_nothing(guest: RawGuest) -> None:
    stream = guest.connect(INTERNET, 4000, ECHO, wnd=4000)
    sent = bytes(random.Random(2).randbytes(12000))
    for begin in range(0, len(sent), 1000):
        stream.send(sent[begin : begin + 1000])
    for wnd in (4000, 10, 0, 700, 3, 0):
        stream.wnd = wnd
        guest.send(stream.segment())
        stream.receive(len(stream.data) + 1, 0.3)
    stream.wnd = 65535
    assert stream.receive(len(sent), 20) == sent
    stream.reset()


def test_of_overlapping_segments_each_byte_counts_once_and_the_first_wins(
    echo: Stream, counted: Callable[[str], int]
) -> None:
    echo.guest.send(
        echo.segment(b"C" * 100, at=200),
        echo.segment(b"x" * 50, at=225),
        echo.segment(b"B" * 150, at=100),
        echo.segment(b"A" * 150),
        echo.segment(b"y" * 100, at=20),
    )
    echo.seq += 300
    assert echo.receive(300) == b"A" * 150 + b"B" * 50 + b"C" * 100
    assert counted("tcp_segment_dropped_duplicate") >= 2
    assert echo.echoes(b"alive")


def test_segments_of_one_byte_arrive_in_order(echo: Stream) -> None:
    sent = random.Random(3).randbytes(3000)
    echo.guest.send(*(echo.segment(sent[at : at + 1], at=at) for at in range(len(sent))))
    echo.seq += len(sent)
    assert echo.receive(len(sent)) == sent


def test_a_guest_that_acknowledges_nothing_leaves_slots_to_the_other(
    guest: RawGuest, other: RawGuest, hostile_daemon: Daemon
) -> None:
    streams = [guest.connect(INTERNET, 5000 + n, DATA) for n in range(MAX_FLOWS)]
    for stream in streams:
        stream.send(b'{"down": 1000000000, "up": 0, "seed": 1}\n')
    wait_for(lambda: hostile_daemon.gauge("worker_slots_free")["egress0"] < 150, "it holds many slots", 5)
    honest = other.connect(INTERNET, 4000, ECHO)
    for _ in range(5):
        assert honest.echoes(b"honest" * 3000)
    honest.reset()
    for stream in streams:
        stream.reset()


def test_holes_hold_no_more_than_the_limit_allows(echo: Stream, counted: Callable[[str], int]) -> None:
    echo.guest.send(*(echo.segment(b"z", at=at) for at in range(1, 2000, 2)))
    wait_for(lambda: counted("tcp_segment_dropped_reassembly_full") == 1000 - 64, "all others are dropped")
    echo.send(b"!")
    assert echo.receive(2) == b"!z"
    echo.seq += 1


# --- checksums, lengths, options --------------------------------------------------------------


@pytest.mark.parametrize(
    ("proto", "at", "counter"),
    [
        ("ip", 24, "ipv4_packet_dropped_bad_checksum"),
        ("tcp", 50, "tcp_segment_dropped_bad_checksum"),
        ("udp", 40, "udp_datagram_dropped_bad_checksum"),
        ("icmp", 36, "icmp_message_dropped_bad_checksum"),
    ],
)
def test_a_wrong_checksum_is_dropped_and_counted(
    guest: RawGuest, counted: Callable[[str], int], proto: str, at: int, counter: str
) -> None:
    made = {
        "ip": guest.segment(INTERNET, 1, 2, 3, flags=tcp.SYN),
        "tcp": guest.segment(INTERNET, 1, 2, 3, flags=tcp.SYN),
        "udp": guest.datagram(INTERNET, 1, 2),
        "icmp": guest.packet(ipv4.PROTO_ICMP, GATEWAY, icmp.build(icmp.ECHO_REQUEST, 0, 1, b"ping")),
    }
    bad = bytearray(made[proto])
    bad[at] ^= 0x40
    guest.send(*[bytes(bad)] * 20)
    wait_for(lambda: counted(counter) == 20, counter)
    assert guest.receive() == []


@pytest.mark.parametrize(
    "options", [b"\x01\x01\x01\x00", b"\x83\x07\x04\x0a\x00\x00\x01\x00", b"\x07\x27" + b"\0" * 38]
)
def test_ip_options_are_passed_over(guest: RawGuest, options: bytes) -> None:
    syn = guest.segment(INTERNET, 4000, CLOSED_PORT, 1, flags=tcp.SYN)
    guest.send(guest.packet(ipv4.PROTO_TCP, INTERNET, syn[34:], options=options))
    (answer,) = guest.tcp(guest.receive(1.0))
    assert answer.header.flags & tcp.RST


@pytest.mark.parametrize(
    ("offset", "value", "counter"),
    [
        (14, 0x65, "ipv4_packet_dropped_bad_version"),
        (14, 0x44, "ipv4_packet_dropped_bad_length"),
        (16, 0xFF, "ipv4_packet_dropped_truncated"),
        (46, 0x10, "tcp_segment_dropped_bad_offset"),
        (46, 0xF0, "tcp_segment_dropped_bad_offset"),
    ],
)
def test_lengths_that_lie_are_counted(
    guest: RawGuest, counted: Callable[[str], int], offset: int, value: int, counter: str
) -> None:
    frame = bytearray(guest.segment(INTERNET, 1, 2, 3, flags=tcp.SYN))
    frame[offset] = value
    if offset < 34:
        frame[24:26] = b"\0\0"
        pack_into("!H", frame, 24, 0xFFFF - int.from_bytes(frame[14:34], "big") % 0xFFFF)
    guest.send(*[bytes(frame)] * 20)
    wait_for(lambda: counted(counter) == 20, counter)
    assert guest.receive() == []


def test_a_udp_length_that_lies_is_counted(guest: RawGuest, counted: Callable[[str], int]) -> None:
    for length in (7, 500):
        frame = bytearray(guest.datagram(INTERNET, 1, 2))
        pack_into("!H", frame, 38, length)
        guest.send(bytes(frame))
    wait_for(lambda: counted("udp_datagram_dropped_bad_length") == 2, "both are counted")


# --- fragments ----------------------------------------------------------------------------------


def test_overlapping_fragments_condemn_their_datagram(guest: RawGuest, counted: Callable[[str], int]) -> None:
    whole = guest.datagram(INTERNET, 9000, UDP_ECHO, b"f" * 1000)[34:]
    first = guest.packet(ipv4.PROTO_UDP, INTERNET, whole[:512], more=True)
    over = guest.packet(ipv4.PROTO_UDP, INTERNET, whole[256:512] + b"!" * 64, frag=256, more=True)
    last = guest.packet(ipv4.PROTO_UDP, INTERNET, whole[512:], frag=512)
    guest.send(first, first, over, last)
    wait_for(lambda: counted("ipv4_fragment_dropped_overlap") == 2, "the overlap and what follows")
    assert counted("ipv4_fragment_dropped_duplicate") == 1
    assert guest.receive() == []
    # The same datagram in honest pieces.
    first = guest.packet(ipv4.PROTO_UDP, INTERNET, whole[:512], more=True, ident=2)
    guest.send(guest.packet(ipv4.PROTO_UDP, INTERNET, whole[512:], frag=512, ident=2), first)
    (answer,) = guest.receive(1.0)
    assert answer[42:] == b"f" * 1000


def test_fragments_that_go_on_for_ever_hold_no_memory_and_no_answer(
    guest: RawGuest, counted: Callable[[str], int]
) -> None:
    piece = b"l" * 64
    loop = [guest.packet(ipv4.PROTO_UDP, INTERNET, piece, frag=n * 64, more=True) for n in range(1, 400)]
    guest.send(*loop)
    wait_for(
        lambda: (
            counted("ipv4_fragment_dropped_too_many") == 1 and counted("ipv4_fragment_dropped_overlap") > 200
        ),
        "the datagram is given up",
    )
    guest.send(*(guest.packet(ipv4.PROTO_UDP, INTERNET, b"o" * 800, frag=65000, ident=n) for n in (3, 4)))
    wait_for(lambda: counted("ipv4_fragment_dropped_too_long") == 2, "ends behind the longest packet")
    guest.send(guest.packet(ipv4.PROTO_UDP, INTERNET, b"odd", more=True, ident=5))
    wait_for(lambda: counted("ipv4_fragment_dropped_bad_length") == 1, "no multiple of eight")
    guest.send(*(guest.packet(ipv4.PROTO_UDP, INTERNET, piece, more=True, ident=n) for n in range(10, 200)))
    wait_for(lambda: counted("ipv4_datagram_dropped_reassembly_full") > 100, "the oldest make room")


# --- services -----------------------------------------------------------------------------------


def test_dhcp_starvation_takes_no_lease_from_a_client_that_has_one_nor_from_the_next_guest(
    guest: RawGuest, other: RawGuest, counted: Callable[[str], int]
) -> None:
    generator = random.Random(5)

    def starve() -> bool:
        # Not faster than the server answers a guest while others are active.
        guest.send(
            *(
                _ask(guest, b"\x5a" + generator.randbytes(5), kind, GATEWAY + 2 + n if kind == 3 else 0)
                for n in range(20)
                for kind in (dhcp.DISCOVER, dhcp.REQUEST)
            )
        )
        return counted("dhcp_message_dropped_too_many_of_guest") > 0

    wait_for(starve, "it has its part", 20, every=0.1)
    # The last eight of 253, and the static one that nobody has, are for others.
    assert counted("dhcp_leases") <= 246
    guest.receive()
    offers = counted("dhcp_offer_sent")
    other.send(_ask(other, b"\x5a" + generator.randbytes(5), dhcp.DISCOVER))
    wait_for(lambda: counted("dhcp_offer_sent") > offers, "another guest's client is offered an address", 20)
    assert other.connect(INTERNET, 4000, ECHO).echoes(b"has its address")


def test_dhcp_starvation_by_a_guest_that_reconnects_leaves_a_lease_to_the_next(
    hostile_daemon: Daemon, counted: Callable[[str], int]
) -> None:
    for connection in range(6):
        refused = counted("dhcp_message_dropped_too_many_of_guest")
        with RawGuest(hostile_daemon.qemu_socket, next(_numbers)) as guest:
            macs = [b"\x5a\x01\0" + bytes((connection, 0, n)) for n in range(250)]

            def starve(macs: list[bytes] = macs, guest: RawGuest = guest, refused: int = refused) -> bool:
                asking, macs[:] = macs[:40], macs[40:]
                guest.send(*(_ask(guest, mac, dhcp.REQUEST) for mac in asking))
                return counted("dhcp_message_dropped_too_many_of_guest") > refused

            wait_for(starve, "it has its part", 20, every=0.1)
            guest.receive()
    assert counted("dhcp_message_dropped_no_address") == 0
    with RawGuest(hostile_daemon.qemu_socket, next(_numbers)) as other:
        offers = counted("dhcp_offer_sent")
        other.send(_ask(other, other.mac, dhcp.DISCOVER))
        wait_for(lambda: counted("dhcp_offer_sent") > offers, "the next guest is offered an address", 20)


def _ask(client: RawGuest, mac: bytes, kind: int, addr: int = 0) -> bytes:
    options = {dhcp.MESSAGE_TYPE: bytes([kind])}
    if addr:
        options[dhcp.REQUESTED_ADDRESS] = ip.ipv4_bytes(addr)
        options[dhcp.SERVER_ID] = ip.ipv4_bytes(GATEWAY)
    message = dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, int.from_bytes(mac[2:], "big"), mac, options))
    return ethernet.header(ethernet.BROADCAST, client.mac, ethernet.TYPE_IPV4) + (
        _from_nowhere(client.datagram(ip.BROADCAST, 68, 67, message)[14:])
    )


def _from_nowhere(packet: bytes) -> bytes:
    """The source address becomes 0.0.0.0; UDP goes without a checksum."""
    made = bytearray(packet)
    made[12:16] = bytes(4)
    made[26:28] = bytes(2)
    made[10:12] = bytes(2)
    pack_into("!H", made, 10, 0xFFFF - int.from_bytes(made[:20], "big") % 0xFFFF)
    return bytes(made)


def test_garbage_for_the_name_server_is_counted_and_names_are_still_found(
    guest: RawGuest, counted: Callable[[str], int]
) -> None:
    generator = random.Random(6)
    garbage = [generator.randbytes(generator.randrange(1, 300)) for _ in range(300)]
    guest.send(*(guest.datagram(GATEWAY, 20000, DNS, text) for text in garbage))
    causes = ("malformed", "opcode", "type", "edns_version")
    wait_for(
        lambda: sum(counted(f"dns_query_refused_{cause}") for cause in causes) > 50, "garbage is refused"
    )
    assert counted("dns_query_ignored_response") > 50
    guest.receive()
    question = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\3www\7example\4test\0\0\1\0\1"
    guest.send(guest.datagram(GATEWAY, 20001, DNS, question))
    (answer,) = guest.receive(1.0)
    assert answer[42:44] == b"\x12\x34"
    assert answer.endswith(socket.inet_aton(INTERNET_ADDR))


def test_a_flood_of_questions_is_dropped_unread_while_another_guest_is_answered(
    guest: RawGuest, other: RawGuest, counted: Callable[[str], int]
) -> None:
    question = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\7gateway\x0acontainers\x08internal\0\0\1\0\1"
    refused = counted("dns_query_refused_malformed")
    answered = 0

    def flood() -> bool:
        nonlocal answered
        guest.send(*(guest.datagram(GATEWAY, 20000 + n, DNS, question[: 13 + n % 20]) for n in range(500)))
        other.send(other.datagram(GATEWAY, 20000, DNS, question))
        answered += sum(frame[42:44] == b"\x12\x34" for frame in other.receive())
        guest.receive(0.01)
        return counted("dns_query_dropped_rate_limit") > 500 and answered > 5

    wait_for(flood, "the flood is cut and the other guest is answered", 30, every=0)
    assert counted("dns_query_refused_malformed") > refused


def test_pings_and_arp_requests_are_answered_at_a_bounded_rate(
    guest: RawGuest, other: RawGuest, counted: Callable[[str], int]
) -> None:
    ping = guest.packet(ipv4.PROTO_ICMP, GATEWAY, icmp.build(icmp.ECHO_REQUEST, 0, 1, b"flood"))
    question = ethernet.header(ethernet.BROADCAST, guest.mac, ethernet.TYPE_ARP) + arp.build(
        arp.REQUEST, guest.mac, guest.addr, bytes(6), GATEWAY
    )
    guest.send(*[ping, question] * 1000)
    wait_for(lambda: counted("demux_message_dropped_rate_limit") > 1500, "most get no answer")
    assert len(guest.receive()) < 400
    ping = other.packet(ipv4.PROTO_ICMP, GATEWAY, icmp.build(icmp.ECHO_REQUEST, 0, 1, b"honest"))
    other.send(ping)
    assert any(frame.endswith(b"honest") for frame in other.receive())


def test_datagrams_to_everywhere_open_flows_at_a_bounded_rate_and_in_bounded_number(
    guest: RawGuest, counted: Callable[[str], int]
) -> None:
    guest.send(*(guest.datagram(INTERNET, 30000 + n, UDP_ECHO) for n in range(1000)))
    wait_for(lambda: counted("udp_datagram_dropped_flow_rate") > 700, "most open nothing")
    assert counted("udp_flow_evicted") > 0
    assert counted("udp_flows") <= 50


def test_messages_that_report_errors_are_never_answered_with_one(guest: RawGuest) -> None:
    quoted = guest.datagram(SILENT, 1, CLOSED_PORT)[14:42]
    says = icmp.Says(icmp.UNREACHABLE, icmp.PORT_UNREACHABLE, 0)
    error = guest.packet(ipv4.PROTO_ICMP, SILENT, icmp.build_error(says, quoted))
    nonsense = guest.packet(253, INTERNET, b"unknown protocol")
    guest.send(*[error] * 200)
    assert guest.receive() == []
    guest.send(*[nonsense] * 300)
    assert 0 < len(guest.receive()) < 200  # a bucket of fifty, and a hundred a second


def test_the_gateway_is_still_itself(guest: RawGuest) -> None:
    question = ethernet.header(ethernet.BROADCAST, guest.mac, ethernet.TYPE_ARP) + arp.build(
        arp.REQUEST, guest.mac, guest.addr, bytes(6), GATEWAY
    )
    guest.send(question)
    assert any(frame[6:12] == GATEWAY_MAC for frame in guest.receive())
