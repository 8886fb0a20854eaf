"""What demux has to know of what goes past it; and guests that do not read what comes of what they send."""

import socket
from collections.abc import Iterator

import pytest

from pipeline.engines.switch import ANSWER_SECONDS
from pipeline.wire import ethernet
from pipeline.wire.tcp import ACK
from tests.support.frames import GATEWAY_MAC, tcp_frame, udp_frame
from tests.support.network import Network
from tests.support.played_guests import HOST


@pytest.fixture
def one() -> Iterator[Network]:
    with Network(max_udp_flows_per_guest=32) as made:
        yield made


def server_of(one: Network) -> tuple[socket.socket, int]:
    server = one.udp_server()
    return server, server.getsockname()[1]


@pytest.mark.parametrize("stays", [True, False])
def test_a_mac_that_another_guest_claimed_comes_back_to_the_guest_that_uses_it(
    one: Network, stays: bool
) -> None:
    victim, thief = one.card.guest(1), one.card.guest(2)
    stream, host = one.open(victim)
    table = one.stages["demux"].switch
    answer = victim.on_frame
    victim.on_frame = lambda _frame: None  # type: ignore[method-assign,assignment]
    for _ in range(2):
        thief.send(ethernet.header(GATEWAY_MAC, victim.mac, 0x88B5) + bytes(46))
        one.advance(ANSWER_SECONDS)
    victim.on_frame = answer  # type: ignore[method-assign]
    assert table.link_of(victim.mac) == thief.link
    if not stays:
        thief.leave()
        one.settle()
        assert table.link_of(victim.mac) is None
    judged = one.counter("demux", "ipv4_packets_received")
    for _ in range(3):
        one.advance(1.1)
        stream.send(b"x")
        one.settle()
    assert one.counter("demux", "ipv4_packets_received") == judged, "all else went past demux"
    assert table.link_of(victim.mac) == victim.link
    stream.reset()
    one.settle()
    host.close()
    one.everybody_leaves()


def test_a_guest_that_only_listens_is_looked_for_when_its_address_was_lost(one: Network) -> None:
    guest = one.card.guest()
    server, port = server_of(one)
    for _ in range(3):
        guest.datagram(port, b"subscribe")
        one.settle()
    _, client = server.recvfrom(100)
    one.stages["demux"].neighbors.forget_link(guest.link)
    one.advance(2.0)
    for number in range(6):
        server.sendto(b"news %d" % number, client)
        one.advance(1.5)
    assert one.counter("demux", "arp_requests_sent") > 0
    assert guest.datagrams[-1].payload == b"news 5"
    one.everybody_leaves()


def test_flows_of_a_guest_that_does_not_read_do_not_fill_memory(one: Network) -> None:
    guest = one.card.guest()
    _, port = server_of(one)
    guest.datagram(port, b"first")
    one.settle()
    one.card.deaf = True
    for number in range(3000):
        for payload in (b"x", b"not one run"):
            guest.datagram(port, payload, own_port=1024 + number)
        if number % 100 == 99:
            one.now += 0.2
            for _ in range(4):
                one.turn()
    rings = one.workers["demux"].ports.rings_out
    assert one.total("udp_flow_evicted") > 2000
    assert rings["ingress"].backlog <= rings["ingress"].capacity
    one.card.deaf = False
    one.everybody_leaves()


def test_resets_and_reports_for_a_guest_that_does_not_read_do_not_fill_memory(one: Network) -> None:
    guest = one.card.guest()
    guest.datagram(9, b"first")
    one.settle()
    one.card.deaf = True
    for number in range(3000):
        ports = {"sport": 1024 + number, "dport": 80}
        eth_header = guest.to_gateway
        guest.send(tcp_frame(1, b"", src=guest.addr, dst=HOST, flags=ACK, eth_header=eth_header, **ports))
        if number % 100 == 99:
            for _ in range(4):
                one.turn()
    ring = one.workers["tcp0"].ports.rings_out["ingress"]
    assert one.total("tcp_segments_received") == 3000
    assert ring.backlog <= ring.capacity
    assert one.total("tcp_reset_sent_no_flow") <= 2 * ring.capacity
    one.card.deaf = False
    one.everybody_leaves()


def test_a_guest_with_the_address_of_one_that_left_gets_a_flow_of_its_own(one: Network) -> None:
    server, port = server_of(one)
    first = one.card.guest()
    for _ in range(4):
        first.datagram(port, b"old")
        one.settle()
    old = {server.recvfrom(100)[1] for _ in range(4)}
    assert len(old) == 1
    assert one.counter("ingress", "link_runs_steered") > 0
    first.leave()
    again = one.card.guest(first.link)
    for _ in range(4):
        again.datagram(port, b"new")
    one.settle()
    again.datagram(port, b"new")
    one.settle()
    got = []
    while True:
        try:
            got.append(server.recvfrom(100))
        except BlockingIOError:
            break
    assert [payload for payload, _ in got] == [b"new"] * 5
    assert not old & {client for _, client in got}
    one.everybody_leaves()


@pytest.mark.parametrize("whose_mac", ["own", "victims"])
def test_another_link_cannot_enter_a_steered_flow_with_the_headers_that_ingress_knows(
    one: Network, whose_mac: str
) -> None:
    victim, thief = one.card.guest(1), one.card.guest(2)
    stream, host = one.open(victim)
    thief_stream, thief_host = one.open(thief)
    server, port = server_of(one)
    for _ in range(3):
        victim.datagram(port, b"mine")
        thief.datagram(port, b"own", own_port=6000)
        one.settle()
    stream.send(b"steered")
    one.settle()
    assert host.recv(100) == b"steered"
    while True:
        try:
            server.recv(100)
        except BlockingIOError:
            break
    mac = victim.mac if whose_mac == "victims" else thief.mac
    header = ethernet.header(GATEWAY_MAC, mac, ethernet.TYPE_IPV4)
    to = {"src": victim.addr, "dst": HOST, "eth_header": header}
    before = one.counter("demux", "udp_datagrams_from_guest")
    for number in range(5):
        thief.send(
            udp_frame(b"forged %d" % number, sport=5000, dport=port, **to),
            tcp_frame(
                stream.conn.snd_nxt & 0xFFFFFFFF, b"forged", sport=stream.port, dport=one.port,
                ack=stream.conn.rcv_nxt & 0xFFFFFFFF, **to,
            ),
        )  # fmt: skip
        one.settle()
    for sock in (server, host):
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    assert one.counter("demux", "udp_datagrams_from_guest") == before
    stream.send(b" and so are these")
    thief_stream.send(b"this one is its own")
    one.settle()
    assert host.recv(100) == b" and so are these"
    assert thief_host.recv(100) == b"this one is its own"
    refused = {"own": "neighbor_claim_refused_address_taken", "victims": "switch_frame_dropped_moving_source"}
    assert one.counter("demux", refused[whose_mac]) == 10
    for end in (stream, thief_stream):
        end.reset()
    for sock in (host, thief_host):
        sock.close()
    one.everybody_leaves()
