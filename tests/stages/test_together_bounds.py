"""demux, tcp and egress together: what one guest, or its hosts, may take, and what is left to the others."""

import resource
import socket

import pytest

from pipeline.stages.egress.sockets import RESERVE
from pipeline.stages.egress.tcp.closing import CLOSING_PATIENCE
from tests.support.network import Make, Network, receive
from tests.support.played_guests import Guest, GuestStream


@pytest.mark.parametrize("answers", [True, False])
def test_clients_of_one_guests_forwards_leave_connections_to_other_guests(
    network: Make, answers: bool
) -> None:
    one = network(max_tcp_flows=8, max_tcp_flows_per_guest=4)
    hog, other = one.card.guest(1), one.card.guest(2)
    hog.listens.add(80)
    # One that does not answer has as many: they are its own before it says anything.
    hog.mute = not answers
    clients = [one.accept("egress0", hog.addr, 80) for _ in range(8)]
    one.advance(0.5)
    ends = [receive(client, bytearray()) for client in clients]
    assert ends == [False] * 4 + [True] * 4
    assert one.stages["tcp0"].connections.guests.sums()["tcp_flows"][hog.link] == 4
    assert one.counter("tcp0", "tcp_dial_failed_too_many_flows") == 4
    stream, _ = one.open(other)
    # Its own SYNs are over the limit as well.
    late = hog.connect(one.port)
    one.settle()
    assert not late.established
    for client in clients:
        client.close()
    stream.reset()
    one.settle()
    for guest in (hog, other):
        guest.leave()
    one.at_home()


def test_a_connection_in_time_wait_makes_room_for_a_client_of_its_guests_forward(network: Make) -> None:
    one = network(max_tcp_flows_per_guest=1)
    guest = one.card.guest()
    guest.listens.add(80)
    for _ in range(2):
        client = one.accept("egress0", guest.addr, 80)
        one.until(lambda: guest.accepted and not guest.accepted[-1].gone, "handshake")
        client.close()
        one.settle()
        guest.accepted[-1].finish()
        one.until(lambda: guest.accepted[-1].gone)
    assert one.counter("tcp0", "tcp_flow_evicted_time_wait") == 1
    one.everybody_leaves()


def test_remotes_that_never_read_leave_sockets_to_other_guests(
    network: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for twelve sockets, a quarter of them for connections that are over. Ten are for links.
    soft = RESERVE + 10 + 12
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    one = network()
    hog, other = one.card.guest(1), one.card.guest(2)
    stage = one.stages["egress0"]
    one.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for _ in range(15):
        stream, remote = one.open(hog)
        # For the guest it ends in order; what the socket has not taken waits on.
        remote.shutdown(socket.SHUT_WR)
        while not stage.held()["stalled"]:
            stream.send(bytes(10000))
            one.settle()
        stream.finish()
        one.advance(0.2)
        assert not stage.held()["stalled"]
    assert stage.held()["flows"] == 3
    assert one.counter("egress0", "egress_connection_reset_closing_full") == 12
    stream, _ = one.open(other)
    stream.reset()
    one.advance(CLOSING_PATIENCE + 1.0)
    one.everybody_leaves()


def half_open(one: Network, guest: Guest, count: int) -> list[GuestStream]:
    """Connections of a guest whose hosts have answered, and which it never completes."""
    streams = []
    for _ in range(count):
        stream = guest.connect(one.port)
        stream.deaf = True
        one.settle()
        streams.append(stream)
    return streams


def half_open_at_host(one: Network) -> int:
    """How many of egress's connections there are, after those that the server has lost are closed."""
    return int(one.stages["egress0"].held()["flows"])


def test_syns_that_a_guest_never_completes_do_not_refuse_its_next_connection(network: Make) -> None:
    one = network(max_half_open_per_guest=4)
    guest = one.card.guest()
    half_open(one, guest, 10)
    assert half_open_at_host(one) == 4, "the host sockets of those that made room are closed"
    for _ in range(10):
        one.listener.accept()[0].close()
    stream = guest.connect(one.port)
    one.until(lambda: stream.established)
    assert one.counter("tcp0", "tcp_flow_evicted_half_open") == 7
    assert one.counter("tcp0", "tcp_flows") == 4
    stream.reset()
    guest.leave()
    one.at_home()


def test_a_connection_that_the_guest_completes_right_before_its_next_syn_stays(network: Make) -> None:
    one = network(max_half_open_per_guest=1)
    guest = one.card.guest()
    first = guest.connect(one.port)
    while not first.established:
        one.breathe("demux", "tcp0", "egress0")
        one.breathe("ingress")
    # Its acknowledgement is in the ring; the next SYN comes behind it, in the same burst.
    second = guest.connect(one.port)
    one.breathe("ingress", "demux")
    one.until(lambda: second.established)
    assert one.counter("tcp0", "tcp_flow_evicted_half_open") == 0
    host, _ = one.accepted(), one.accepted()
    first.send(b"still there")
    one.settle()
    assert host.recv(20) == b"still there"
    for stream in (first, second):
        stream.reset()
    one.settle()
    guest.leave()
    one.at_home()


def test_connections_that_are_open_stay_when_a_guest_floods_syns(network: Make) -> None:
    one = network(max_half_open_per_guest=4, max_tcp_flows=8, max_tcp_flows_per_guest=6)
    guest, other = one.card.guest(1), one.card.guest(2)
    pairs = [one.open(guest) for _ in range(3)] + [one.open(other)]
    half_open(one, guest, 20)
    for number, (stream, host) in enumerate(pairs):
        stream.send(b"%d" % number)
        one.settle()
        assert host.recv(10) == b"%d" % number
    assert half_open_at_host(one) == 7
    late = other.connect(one.port)
    one.until(lambda: late.established)
    assert one.counter("tcp0", "tcp_syn_dropped_too_many_flows_of_guest") == 0
    assert not any(stream.failed for stream, _ in pairs)
    for stream, _ in pairs:
        stream.reset()
    late.reset()
    one.settle()
    for each in (guest, other):
        each.leave()
    one.at_home()


def test_a_full_table_makes_room_by_half_open_connections_of_the_guest_with_most(network: Make) -> None:
    one = network(max_tcp_flows=6)
    hog, other = one.card.guest(1), one.card.guest(2)
    first = half_open(one, other, 1)
    half_open(one, hog, 5)
    streams = [other.connect(one.port) for _ in range(2)]
    one.until(lambda: all(stream.established for stream in streams))
    first[0].deaf = False
    one.until(lambda: first[0].established)
    assert one.stages["tcp0"].connections.guests.sums()["half_open"][hog.link] == 3
    # The hog's own: nobody else pays for its flood.
    half_open(one, hog, 5)
    assert not any(stream.gone for stream in (*streams, *first))
    for stream in (*streams, *first):
        stream.reset()
    one.settle()
    for guest in (hog, other):
        guest.leave()
    one.at_home()


@pytest.mark.parametrize("mine", [True, False], ids=["its own", "another guest's"])
def test_half_open_connections_that_have_all_sockets_make_room_for_the_next_one(
    network: Make, mine: bool
) -> None:
    one = network()
    hog, other = one.card.guest(1), one.card.guest(2)
    one.stages["egress0"].context.bound.limit = 4
    pair = one.open(other)
    half_open(one, hog, 3)
    assert half_open_at_host(one) == 4
    for _ in range(3):
        one.listener.accept()[0].close()
    stream = (hog if mine else other).connect(one.port)
    one.until(lambda: stream.established)
    assert one.counter("tcp0", "tcp_flow_evicted_half_open") == 1
    assert half_open_at_host(one) == 4
    pair[0].send(b"still there")
    one.settle()
    assert pair[1].recv(20) == b"still there"
    stream.reset()
    pair[0].reset()
    one.settle()
    for guest in (hog, other):
        guest.leave()
    one.at_home()


def test_half_open_connections_that_have_all_sockets_make_room_for_datagrams(network: Make) -> None:
    one = network()
    hog, other = one.card.guest(1), one.card.guest(2)
    one.stages["egress0"].context.bound.limit = 3
    pair = one.open(other)
    half_open(one, hog, 2)
    server = one.udp_server()
    port = server.getsockname()[1]
    other.datagram(port, b"first")
    one.settle()
    other.datagram(port, b"second")
    one.settle()
    assert server.recv(20) == b"second"
    assert one.counter("tcp0", "tcp_flow_evicted_half_open") == 1
    pair[0].reset()
    one.settle()
    for guest in (hog, other):
        guest.leave()
    one.at_home()


def test_a_hog_with_open_connections_takes_no_socket_of_others(network: Make) -> None:
    one = network()
    hog, other = one.card.guest(1), one.card.guest(2)
    one.stages["egress0"].context.bound.limit = 6
    pairs = [one.open(hog) for _ in range(4)]
    half_open(one, other, 2)
    late = hog.connect(one.port)
    one.settle()
    assert not late.established
    assert one.counter("tcp0", "tcp_flow_evicted_half_open") == 0
    for stream, _ in pairs:
        stream.reset()
    one.settle()
    for guest in (hog, other):
        guest.leave()
    one.at_home()


def test_half_open_connections_of_a_guest_that_leaves_keep_no_socket(network: Make) -> None:
    one = network()
    guest = one.card.guest()
    one.open(guest)
    half_open(one, guest, 5)
    guest.leave()
    one.settle()
    assert half_open_at_host(one) == 1, "the open one waits for the guest to come back"
    one.at_home()


def test_a_datagram_flow_that_made_room_is_over_for_demux_and_its_next_datagram_opens_it_again(
    network: Make,
) -> None:
    one = network()
    guest = one.card.guest()
    one.stages["egress0"].context.bound.limit = 2
    servers = [one.udp_server() for _ in range(3)]
    for _ in range(2):
        for number, server in enumerate(servers):
            for _ in range(3):
                guest.datagram(server.getsockname()[1], b"%d" % number)
                one.settle()
                assert server.recv(10) == b"%d" % number
            assert one.counter("demux", "udp_flows") <= 2
    assert one.counter("egress0", "egress_flow_evicted_too_many_sockets") == 4
    assert one.counter("egress0", "egress_datagrams_to_host") == 18
    one.everybody_leaves()
