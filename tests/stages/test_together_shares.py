"""demux, tcp and egress together: whose socket makes room when there is none left, and who pays for one."""

import socket
import time

import pytest

from pipeline.host import tcp as host_tcp
from pipeline.records.guests import Work
from pipeline.records.kinds import REPORT_EVERY_S
from tests.support.network import Make, Network
from tests.support.played_guests import Guest, GuestStream
from tests.support.ready import readable
from tests.support.received import Received

Pair = tuple[GuestStream, socket.socket]


def talk(one: Network, pair: Pair) -> None:
    """Bytes of the guest arrive at the host, or the test fails."""
    stream, host = pair
    stream.send(b"here I am")
    one.settle()
    assert host.recv(20) == b"here I am"


def end(one: Network, *guests: Guest) -> None:
    for guest in guests:
        for stream in guest.streams.values():
            stream.reset()
    one.settle()
    for guest in guests:
        guest.leave()
    one.at_home()


def test_connections_of_a_guest_that_is_gone_make_room_first(network: Make) -> None:
    one = network()
    gone, living = one.card.guest(1), one.card.guest(2)
    bound = one.stages["egress0"].context.bound
    bound.limit = 6
    for _ in range(3):
        one.open(gone)
    gone.leave()
    server = one.udp_server()
    living.datagram(server.getsockname()[1], b"flow", own_port=6000)
    kept = [one.open(living) for _ in range(5)]
    assert one.counter("egress0", "egress_flow_evicted_guest_gone") == 3
    assert one.counter("egress0", "egress_flow_evicted_too_many_sockets") == 0
    assert one.counter("tcp0", "tcp_flows") == 5
    for pair in kept:
        talk(one, pair)
    end(one, living)


def test_a_connection_whose_guest_came_back_is_not_one_of_a_guest_that_is_gone(network: Make) -> None:
    one = network()
    guest, other = one.card.guest(1), one.card.guest(2)
    pair = one.open(guest)
    one.stages["egress0"].context.bound.limit = 2
    guest.replug(3)
    one.settle()
    talk(one, pair)
    assert one.stages["egress0"].context.bound.sums() == {3: 1}
    first = one.open(other)
    late = other.connect(one.port)
    one.settle()
    assert not late.established
    talk(one, pair)
    talk(one, first)
    end(one, guest, other)


def test_a_guest_below_its_share_gets_the_socket_of_the_hogs_most_silent_connection(network: Make) -> None:
    one = network()
    hog, other = one.card.guest(1), one.card.guest(2)
    pairs = [one.open(hog) for _ in range(6)]
    one.stages["egress0"].context.bound.limit = 6
    one.advance(2.0)
    silent = pairs.pop(3)
    for pair in pairs[:2]:
        talk(one, pair)
    for stream, host in pairs[2:]:
        host.send(b"news")
        one.settle()
        assert stream.received.endswith(b"news")
    mine = [one.open(other)]
    assert silent[0].failed, "the guest gets a reset"
    assert one.counter("egress0", "egress_flow_evicted_over_share") == 1
    one.advance(1.0)
    for pair in pairs[1:]:
        talk(one, pair)
    mine.append(one.open(other))
    assert pairs.pop(0)[0].failed
    mine.append(one.open(other))
    assert one.counter("egress0", "egress_flow_evicted_over_share") == 3
    late = other.connect(one.port)
    one.settle()
    assert not late.established, "each has its share now"
    for pair in mine:
        talk(one, pair)
    end(one, hog, other)


def test_a_hog_loses_half_open_connections_before_established_ones(network: Make) -> None:
    one = network()
    hog, other = one.card.guest(1), one.card.guest(2)
    bound = one.stages["egress0"].context.bound
    pairs = [one.open(hog) for _ in range(3)]
    bound.limit = 6
    for _ in range(3):
        hog.connect(one.port).deaf = True
        one.settle()
        one.accepted()
    one.open(other)
    one.open(other)
    assert one.counter("tcp0", "tcp_flow_evicted_half_open") == 2
    assert one.counter("egress0", "egress_flow_evicted_over_share") == 0
    for pair in pairs:
        talk(one, pair)
    end(one, hog, other)


def test_a_datagram_of_a_guest_below_its_share_gets_the_socket_of_a_connection(network: Make) -> None:
    one = network()
    hog, other = one.card.guest(1), one.card.guest(2)
    for _ in range(4):
        one.open(hog)
    one.stages["egress0"].context.bound.limit = 4
    server = one.udp_server()
    other.datagram(server.getsockname()[1], b"mine")
    one.settle()
    assert server.recv(20) == b"mine"
    assert one.counter("egress0", "egress_flow_evicted_over_share") == 1
    end(one, hog, other)


def test_a_guest_alone_never_loses_an_established_connection(network: Make) -> None:
    one = network()
    guest = one.card.guest(1)
    pairs = [one.open(guest) for _ in range(3)]
    one.stages["egress0"].context.bound.limit = 3
    late = guest.connect(one.port)
    one.settle()
    assert not late.established
    for pair in pairs:
        talk(one, pair)
    end(one, guest)


def test_all_links_of_one_peer_are_one_guest(network: Make) -> None:
    one = network()
    hogs = [one.card.guest(number, peer=7) for number in range(1, 5)]
    other = one.card.guest(9)
    bound = one.stages["egress0"].context.bound
    for hog in hogs:
        one.open(hog)
    bound.limit = 4
    assert bound.sums() == {7: 4}
    one.open(other)
    one.open(other)
    assert bound.sums() == {7: 2, 9: 2}
    assert one.stages["tcp0"].connections.guests.sums()["tcp_flows"].keys() == {7, 9}
    end(one, *hogs, other)


@pytest.mark.parametrize("steers", [True, False])
def test_a_udp_flow_goes_on_when_its_guest_is_back_before_its_old_link_is_down(
    network: Make, steers: bool
) -> None:
    one = network()
    guest = one.card.guest(1)
    one.card.steers = steers
    server = one.udp_server()
    port = server.getsockname()[1]
    peers = set()
    for link in (1, 3):
        if link != guest.link:
            guest.link = link
            one.card.by_link[link] = guest
            one.card.steering.link_up(link, 9)
        # The address moves to the new link when the old one was silent for a second.
        for _ in range(5):
            guest.datagram(port, b"hello")
            one.advance(2 * REPORT_EVERY_S)
        for _ in range(3):
            peers.add(server.recvfrom(10)[1])
        guest.datagram(port, b"hello")
        one.advance(2 * REPORT_EVERY_S)
    while readable(server, 0):
        peers.add(server.recvfrom(10)[1])
    one.card.steering.link_down(1, 1)
    one.settle()
    guest.datagram(port, b"hello")
    one.settle()
    peers.add(server.recvfrom(10)[1])
    assert len(peers) == 1, "the server sees one address"
    assert one.stages["egress0"].context.bound.sums() == {9: 1}
    guest.peer = 9
    end(one, guest)


def test_udp_flows_of_a_guest_with_many_addresses_end_with_its_link(network: Make) -> None:
    one = network()
    first, second = one.card.guest(1, peer=7), one.card.guest(2, peer=7)
    server = one.udp_server()
    port = server.getsockname()[1]
    first.datagram(port, b"one")
    second.datagram(port, b"two")
    one.settle()
    # The addresses are forgotten before the link goes down.
    one.stages["demux"].neighbors.forget_link(1)
    first.leave()
    one.advance(REPORT_EVERY_S)
    assert one.counter("demux", "udp_flows") == 1
    assert one.stages["egress0"].context.bound.sums() == {7: 1}
    end(one, second)


def test_a_guest_is_charged_for_the_host_sockets_that_it_opens(
    network: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = host_tcp.is_connected

    def slow(sock: socket.socket) -> bool:
        until = time.thread_time() + 0.03
        while time.thread_time() < until:
            pass
        return opened(sock)

    monkeypatch.setattr(host_tcp, "is_connected", slow)
    one = network()
    guest, other = one.card.guest(1), one.card.guest(2)
    work: list[Work] = []
    on_record = one.card.on_record

    def noted(record: Received) -> None:
        if isinstance(record.fields, Work):
            work.append(record.fields)
        else:
            on_record(record)

    monkeypatch.setattr(one.card, "on_record", noted)
    one.open(other)
    assert not work, "there is nobody to share with"
    one.card.steering.report_shared(True)
    one.settle()
    work.clear()
    one.open(guest)
    spent = {link: sum(each.nanoseconds for each in work if each.link == link) for link in (1, 2)}
    assert spent[1] > 25_000_000
    assert spent[2] < 5_000_000
    end(one, guest, other)
