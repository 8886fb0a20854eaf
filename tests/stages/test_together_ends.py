"""demux, tcp and egress together: ends of connections that cross each other, and refused datagrams."""

import gc
import itertools
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from pipeline.engines import fragmentation
from pipeline.wire import icmp, ipv4, tcp, udp
from tests.support.network import Network, receive
from tests.support.played_guests import HOST, GuestStream

REFUSED = (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE)
WORKERS = ("ingress", "demux", "tcp0", "egress0")
GUEST_ENDS = ("nothing", "finish", "data, finish", "reset", "data, reset")
HOST_ENDS = ("nothing", "shutdown", "data, shutdown", "close", "data, close", "reset")


@pytest.fixture
def one() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def one_cone() -> Iterator[Network]:
    with Network(udp_nat="full-cone") as made:
        yield made


def guest_ends(stream: GuestStream, how: str) -> None:
    if "data" in how:
        stream.send(b"g" * 5000)
    if "finish" in how:
        stream.finish()
    if "reset" in how:
        stream.reset()


def host_ends(sock: socket.socket, how: str) -> None:
    if "data" in how:
        sock.send(b"h" * 5000)
    if "shutdown" in how:
        sock.shutdown(socket.SHUT_WR)
    if "close" in how:
        sock.close()
    if "reset" in how:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


@pytest.mark.parametrize("host", HOST_ENDS)
@pytest.mark.parametrize("guest", GUEST_ENDS)
def test_ends_that_cross(one: Network, guest: str, host: str) -> None:
    kernel = one.card.guest()
    for order in itertools.permutations(WORKERS):
        stream, sock = one.open(kernel)
        one.order = [*order, "resolver", "listen"]
        guest_ends(stream, guest)
        host_ends(sock, host)
        one.settle()
        got = bytearray()
        over = sock.fileno() == -1 or receive(sock, got)
        closed = "close" in host or "reset" in host
        if "reset" in guest:
            assert stream.gone
            assert closed or over
        elif "reset" in host:
            assert stream.gone
            # A connection that the guest has ended as well may have ended in order before.
            assert stream.failed or stream.eof or "finish" in guest
        else:
            assert stream.eof == (host != "nothing") or stream.failed
            if not stream.failed:
                assert stream.received == (b"h" * 5000 if "data" in host else b"")
            if not closed:
                assert over == ("finish" in guest)
                assert got == (b"g" * 5000 if "data" in guest else b"")
        # Whoever still has his half open ends it now.
        stream.finish()
        sock.close()
        one.advance(0.1)
    one.everybody_leaves()


def test_the_guest_is_told_when_its_host_is_gone_both_ways(one: Network) -> None:
    stream, sock = one.open(one.card.guest())
    stream.finish()
    one.settle()
    sock.close()
    one.settle()
    assert stream.eof
    assert not stream.failed
    one.everybody_leaves()


@pytest.mark.parametrize("half_first", [True, False])
def test_a_client_of_a_path_that_is_gone_both_ways_gets_nothing_more(one: Network, half_first: bool) -> None:
    guest = one.card.guest()
    guest.listens.add(80)
    client = one.accept("egress0", guest.addr, 80, unix=True)
    one.until(lambda: guest.accepted)
    stream = guest.accepted[0]
    client.send(b"bye")
    if half_first:
        client.shutdown(socket.SHUT_WR)
        one.settle()
        stream.send(b"half")
        one.settle()
        assert client.recv(100) == b"half"
    client.close()
    one.settle()
    assert stream.eof
    assert stream.received == b"bye"
    # Nobody reads what the guest says now: it is told so at once (RFC 1122 4.2.2.13).
    stream.send(b"anybody?")
    one.settle()
    assert stream.failed
    one.everybody_leaves()


def test_a_silent_guest_does_not_keep_a_client_of_a_path_that_is_gone_both_ways(one: Network) -> None:
    guest = one.card.guest()
    guest.listens.add(80)
    client = one.accept("egress0", guest.addr, 80, unix=True)
    one.until(lambda: guest.accepted)
    client.shutdown(socket.SHUT_WR)
    one.settle()
    client.close()
    # Half-closed connections stay; this one has FIN-WAIT-2's minute.
    one.advance(100.0)
    one.nothing_open()
    one.everybody_leaves()


def test_the_host_ends_while_the_guest_keeps_sending(one: Network) -> None:
    stream, sock = one.open(one.card.guest())
    stream.send(b"x" * 3_000_000)
    for _ in range(6):
        one.turn()
    sock.close()
    one.until(lambda: stream.gone)
    assert stream.failed
    one.everybody_leaves()


@pytest.mark.parametrize("uploads", [False, True], ids=["the guest waits", "the guest uploads"])
def test_an_answer_arrives_whose_host_then_resets(one: Network, uploads: bool) -> None:
    """A server that answers early and closes with input unread: its kernel resets behind the answer."""
    stream, sock = one.open(one.card.guest())
    stream.send(b"request, and more than is read")
    one.settle()
    if uploads:
        stream.send(b"u" * 200_000)
    sock.send(b"h" * 5000)
    sock.close()
    one.until(lambda: stream.gone)
    assert stream.received == b"h" * 5000
    assert stream.failed
    assert not stream.eof
    one.everybody_leaves()


def test_an_answer_arrives_whose_guest_then_resets(one: Network) -> None:
    guest = one.card.guest()
    guest.listens.add(80)
    client = one.accept("egress0", guest.addr, 80)
    one.until(lambda: guest.accepted)
    stream = guest.accepted[0]
    client.send(b"request, and more than is read")
    one.settle()
    stream.send(b"g" * 5000)
    stream.pump()
    stream.reset()
    one.settle()
    got = bytearray()
    assert receive(client, got)
    assert got == b"g" * 5000 + b"!"
    one.everybody_leaves()


def test_the_client_of_a_guest_that_does_not_answer_is_closed_after_ten_seconds(one: Network) -> None:
    guest = one.card.guest()
    guest.mute = True
    client = one.accept("egress0", guest.addr, 80)
    one.advance(9.0)
    got = bytearray()
    assert not receive(client, got)
    one.advance(2.0)
    assert receive(client, got)
    assert got == b"", "closed, not reset"
    guest.mute = False
    one.nothing_open()
    one.everybody_leaves()


def test_the_client_of_a_guest_that_answers_late_is_served(one: Network) -> None:
    guest = one.card.guest()
    guest.listens.add(80)
    guest.mute = True
    client = one.accept("egress0", guest.addr, 80)
    one.advance(5.0)
    guest.mute = False
    one.advance(20.0)
    client.send(b"hello")
    one.settle()
    assert guest.accepted[0].received == b"hello"
    guest.accepted[0].finish()
    client.close()
    one.settle()
    one.everybody_leaves()


def test_the_client_of_a_guest_that_refuses_is_closed(one: Network) -> None:
    guest = one.card.guest()
    client = one.accept("egress0", guest.addr, 80)
    one.advance(1.0)
    got = bytearray()
    assert receive(client, got)
    assert got == b"", "closed, not reset"
    one.everybody_leaves()


@pytest.mark.parametrize("forwarded", [False, True])
def test_the_guest_gets_urgent_bytes_of_the_host_in_their_place(one: Network, forwarded: bool) -> None:
    guest = one.card.guest()
    if forwarded:
        guest.listens.add(80)
        sock = one.accept("egress0", guest.addr, 80)
        one.until(lambda: guest.accepted)
        stream = guest.accepted[0]
    else:
        stream, sock = one.open(guest)
    sock.send(b"abc")
    sock.send(b"X", socket.MSG_OOB)
    sock.send(b"def")
    sock.shutdown(socket.SHUT_WR)
    one.until(lambda: stream.eof)
    assert stream.received == b"abcXdef"
    stream.finish()
    one.everybody_leaves()


def test_the_guest_stops_reading_and_then_resets(one: Network) -> None:
    stream, sock = one.open(one.card.guest())
    stream.reads = False
    sent = 0
    for _ in range(200):
        try:
            sent += sock.send(bytes(65536))
        except BlockingIOError:
            break
        one.settle()
    assert sent > 1_000_000
    stream.reset()
    one.settle()
    assert receive(sock, bytearray())
    one.everybody_leaves()


# --- datagrams ----------------------------------------------------------------------------------------


def closed_port() -> tuple[int, socket.socket]:
    """A port that nobody has, and an unbound socket for whoever wants to have it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def test_a_refused_datagram_is_told_and_leaves_nothing(one: Network) -> None:
    guest = one.card.guest()
    port, spare = closed_port()
    spare.close()
    one.settle()
    gc.collect()  # what other tests have left to it
    before = len(os.listdir("/proc/self/fd"))
    for told in range(1, 21):
        guest.datagram(port, b"x" * told, own_port=5000 + told % 5)
        one.settle()
        assert len(guest.errors) == told
    assert guest.errors == [REFUSED] * 20
    assert not one.stages["egress0"].held()["udp_flows"]
    assert len(one.stages["demux"].udp.flows) == 0
    assert len(os.listdir("/proc/self/fd")) == before
    one.everybody_leaves()


def test_datagrams_under_way_to_a_refused_flow_open_no_socket_for_good(one: Network) -> None:
    guest = one.card.guest()
    port, server = closed_port()
    guest.datagram(port, b"refused")
    one.breathe("ingress", "demux", "egress0")
    # Before egress sees that: somebody opens the port, and more datagrams are on their way.
    server.bind(("127.0.0.1", port))
    one.keep(server).setblocking(False)
    for words in (b"under way", b"under way too"):  # the longer one last: they are no run
        guest.datagram(port, words)
    one.breathe("ingress", "demux")
    one.settle()
    assert guest.errors == [REFUSED]
    assert not one.stages["egress0"].held()["udp_flows"]
    assert len(one.stages["demux"].udp.flows) == 0
    # The next one opens a flow that both know.
    guest.datagram(port, b"afterwards")
    one.settle()
    said = []
    for _ in range(2):
        words, address = server.recvfrom(100)
        said.append(words)
    assert said == [b"under way too", b"afterwards"]
    server.sendto(b"answer", address)
    one.until(lambda: guest.datagrams)
    assert guest.datagrams[0].payload == b"answer"
    one.everybody_leaves()


def test_a_full_cone_serves_strangers_until_its_last_flow_is_idle() -> None:
    with Network(udp_nat="full-cone", egress_workers=2) as one:
        guest = one.card.guest()
        servers = [one.udp_server() for _ in range(2)]
        places = []
        for server in servers:
            guest.datagram(server.getsockname()[1], b"question")
            one.settle()
            places.append(server.recvfrom(100)[1])
        assert places[0] == places[1], "one port of the guest is one port of the host"
        stranger = one.udp_server()
        for seconds in (50.0, 30.0):
            one.advance(seconds)
            stranger.sendto(b"stranger", places[0])
            one.until(lambda: guest.datagrams)
            came = guest.datagrams.pop()
            assert (came.payload, came.ports & 0xFFFF) == (b"stranger", stranger.getsockname()[1])
        # What strangers send renews nothing.
        one.advance(15.0)
        stranger.sendto(b"late", places[0])
        one.settle()
        assert not guest.datagrams
        for index in range(2):
            held = one.stages[f"egress{index}"].held()
            assert (held["udp_flows"], held["cones"]) == (0, 0)
        one.everybody_leaves()


def test_answers_alone_keep_a_flow_of_a_full_cone(one_cone: Network) -> None:
    one = one_cone
    guest = one.card.guest()
    server = one.udp_server()
    guest.datagram(server.getsockname()[1], b"subscribe")
    one.settle()
    _, address = server.recvfrom(100)
    for number in range(4):
        one.advance(60.0)
        server.sendto(b"news %d" % number, address)
        one.until(lambda: guest.datagrams)
        assert guest.datagrams.pop().payload == b"news %d" % number
    one.everybody_leaves()


def test_a_client_of_a_forwarded_port_may_come_back_after_its_flow_has_ended(one: Network) -> None:
    guest = one.card.guest()
    client = one.forwarded_port("egress0", guest.addr)
    for number in range(3):
        client.send(b"question")
        one.until(lambda: guest.datagrams)
        asked = guest.datagrams.pop()
        guest.datagram(asked.ports & 0xFFFF, b"answer %d" % number, remote=asked.src, own_port=53000)
        one.settle()
        assert client.recv(100) == b"answer %d" % number
        one.advance(100.0)
        assert not one.stages["egress0"].held()["forward_clients"]
    one.stages["egress0"].on_control({"op": "udp_unforward", "key": "k"}, [])
    one.everybody_leaves()


def test_an_answer_for_a_guest_that_has_left_goes_home(one: Network) -> None:
    guest = one.card.guest()
    server = one.udp_server()
    guest.datagram(server.getsockname()[1], b"question")
    one.settle()
    _, address = server.recvfrom(100)
    server.sendto(b"late", address)
    one.breathe("egress0")
    guest.leave()
    one.settle()
    assert one.card.lost == 1
    assert not guest.datagrams
    assert not one.stages["egress0"].held()["udp_flows"]
    one.everybody_leaves()


@pytest.mark.parametrize("slow", ["demux", "egress0", ""])
def test_datagrams_keep_their_order_when_some_are_in_fragments(one: Network, slow: str) -> None:
    guest = one.card.guest()
    server = one.udp_server()
    port = server.getsockname()[1]
    head = udp.HEADER_LEN
    sent = []
    for turn in range(6):
        for number, size in enumerate((10, 1000, 3000, 20, 1473, 30)):
            payload = bytes([turn, number]) * (size // 2) + b"x" * (size % 2)
            sent.append(payload)
            if turn < 2 and size > 1472:
                sent.pop()  # the flow is known to be simple at first
            elif size > 1472:
                whole = udp.build(5000, port, head + size) + payload
                for parts in fragmentation.packets(ipv4.PROTO_UDP, guest.addr, HOST, whole, len(sent), 1500):
                    guest.send(b"".join((guest.to_gateway, *parts)))
            else:
                guest.datagram(port, payload)
            names = [name for name in WORKERS if name != slow]
            one.breathe(*names)
        one.settle()
    assert one.counter("ingress", "link_runs_steered") > 0
    assert [server.recv(65535) for _ in sent] == sent
    one.everybody_leaves()


def test_datagrams_under_way_to_a_flow_that_is_over_open_no_socket(one: Network) -> None:
    guest = one.card.guest()
    server = one.udp_server()
    port = server.getsockname()[1]
    for _ in range(3):
        guest.datagram(port, b"x")
        one.settle()
    assert one.counter("ingress", "link_runs_steered") == 1
    one.advance(89.5)
    guest.datagram(port, b"late")
    one.breathe("ingress")
    # The flow is over before demux hears that it was used.
    one.now += 1.0
    one.stages["demux"].udp.expire(one.now)
    one.settle()
    assert not one.stages["egress0"].held()["udp_flows"]
    assert len(one.stages["demux"].udp.flows) == 0
    assert not one.card.steering.routes
    one.everybody_leaves()


def test_a_guest_that_leaves_after_bad_frames_is_forgotten(one: Network) -> None:
    guest = one.card.guest()
    stream, host = one.open(guest)
    stream.reset()
    one.settle()
    # To a connection that is over, and from an address that no guest may have.
    stream.say(tcp.ACK)
    guest.send(guest.to_gateway + ipv4.build(ipv4.HEADER_LEN, 0, 64, 99, HOST, HOST))
    one.settle()
    assert [one.held_by(name)["links_with_bad_frames"] for name in ("demux", "tcp0")] == [1, 1]
    host.close()
    one.everybody_leaves()
