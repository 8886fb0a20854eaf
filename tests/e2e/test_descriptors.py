"""A daemon with few descriptors, and a guest that opens more flows than it has."""

from collections.abc import Iterator

import pytest

from pipeline.wire import ip, tcp
from tests.support.daemon import Daemon
from tests.support.netns import BLACK_HOLE_ADDR, INTERNET_ADDR, Network, wait_for
from tests.support.raw_guest import RawGuest, Stream
from tests.support.servers import ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

DESCRIPTORS = 256
FLOWS = 400
INTERNET = ip.parse_ipv4(INTERNET_ADDR)
SILENT = ip.parse_ipv4(BLACK_HOLE_ADDR)


@pytest.fixture
def scarce(network: Network, outside: Servers) -> Iterator[Daemon]:
    """The daemon; it may raise its limit no further."""
    made = Daemon(network)
    made.command = ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", *made.command]
    with made:
        yield made


@pytest.fixture
def guest(scarce: Daemon) -> Iterator[RawGuest]:
    with RawGuest(scarce.qemu_socket, 7) as made:
        yield made


def echoed(guest: RawGuest, number: int) -> bool:
    """Whether a datagram of a new flow is answered."""
    text = b"datagram %d" % number
    guest.send(guest.datagram(INTERNET, 10000 + number, UDP_ECHO, text))
    return any(text in frame for frame in guest.receive(2.0))


def test_with_all_descriptors_used_the_next_udp_flow_and_connection_work(
    scarce: Daemon, guest: RawGuest
) -> None:
    for first in range(0, FLOWS, 50):
        guest.send(*(guest.datagram(INTERNET, 20000 + first + n, UDP_ECHO) for n in range(50)))
        guest.receive()
    wait_for(lambda: scarce.gauge("egress_flow_evicted_too_many_sockets")["egress0"] > 0, "flows make room")
    assert echoed(guest, 1)
    assert guest.connect(INTERNET, 4000, ECHO).echoes(b"a connection")
    assert echoed(guest, 2)
    assert scarce.gauge("egress_flow_refused_too_many_sockets")["egress0"] == 0
    assert scarce.gauge("udp_flows")["demux"] < DESCRIPTORS


def test_a_scan_of_hosts_that_do_not_answer_leaves_the_next_connection_a_descriptor(
    scarce: Daemon, guest: RawGuest
) -> None:
    stream = guest.connect(INTERNET, 3999, ECHO)
    guest.send(*(guest.segment(SILENT, 10000 + n, 80, n, flags=tcp.SYN) for n in range(FLOWS)))
    wait_for(lambda: scarce.gauge("egress_flow_evicted_too_many_sockets")["egress0"] > 0, "flows make room")
    assert guest.connect(INTERNET, 4000, ECHO).echoes(b"a connection")
    assert echoed(guest, 1)
    assert stream.echoes(b"still there")
    assert scarce.gauge("egress_flow_refused_too_many_sockets")["egress0"] == 0


def test_handshakes_that_a_guest_never_completes_leave_the_next_connection_a_descriptor(
    scarce: Daemon, guest: RawGuest
) -> None:
    stream = guest.connect(INTERNET, 3999, ECHO)
    # In portions: connections that the host has not answered yet would make room first.
    for first in range(0, FLOWS, 50):
        ports = range(10000 + first, 10050 + first)
        guest.send(*(guest.segment(INTERNET, port, ECHO, port, flags=tcp.SYN) for port in ports))
        guest.receive()
    wait_for(lambda: scarce.gauge("tcp_flow_evicted_half_open")["tcp0"] > 0, "half-open ones make room")
    guest.receive()
    assert guest.connect(INTERNET, 4000, ECHO).echoes(b"a connection")
    assert stream.echoes(b"still there")


def open_many(guest: RawGuest, count: int, first_port: int) -> list[Stream]:
    """Open connections in one burst. Returns those that were answered."""
    ports = range(first_port, first_port + count)
    guest.send(*(guest.segment(INTERNET, port, ECHO, 1000, flags=tcp.SYN) for port in ports))
    streams = []
    for got in guest.tcp(guest.receive(1.0)):
        if got.header.flags & (tcp.SYN | tcp.ACK) == tcp.SYN | tcp.ACK:
            seq = got.header.seq + 1 & 0xFFFFFFFF
            streams.append(Stream(guest, INTERNET, got.header.dst_port, ECHO, 1001, seq, 65535))
    guest.send(*(stream.segment() for stream in streams))
    return streams


def test_connections_of_guests_that_vanished_make_room_at_once(scarce: Daemon) -> None:
    for number in range(10, 18):
        with RawGuest(scarce.qemu_socket, number) as vanishing:
            assert open_many(vanishing, 30, 20000)
            wait_for(lambda: not vanishing.receive(0.1), "quiet")
    with RawGuest(scarce.qemu_socket, 7) as guest:
        streams = open_many(guest, 100, 30000)
        assert len(streams) == 100
        assert all(stream.echoes(b"mine") for stream in streams[::10])
        assert echoed(guest, 1)
    assert scarce.gauge("egress_flow_evicted_guest_gone")["egress0"] > 0
    assert scarce.gauge("egress_flow_evicted_over_share")["egress0"] == 0


def test_a_guest_with_all_sockets_gives_silent_connections_to_one_below_its_share(
    scarce: Daemon, guest: RawGuest
) -> None:
    busy = guest.connect(INTERNET, 4000, ECHO)
    while open_many(guest, 50, 20000 + 50 * scarce.gauge("tcp_flow_opened")["tcp0"]):
        pass
    with RawGuest(scarce.qemu_socket, 8) as other:
        for port in range(5000, 5010):
            assert busy.echoes(b"not idle")
            assert other.connect(INTERNET, port, ECHO).echoes(b"mine")
        assert echoed(other, 1)
        assert busy.echoes(b"still there")
    assert scarce.gauge("egress_flow_evicted_over_share")["egress0"] >= 10
