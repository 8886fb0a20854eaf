"""demux, tcp and egress together: what one guest, or its hosts, may take, and what is left to the others."""

import socket

import pytest

from pipeline.stages.egress import CLOSING_PART
from pipeline.stages.egress_share import CLOSING_PATIENCE, ClosingFlows
from tests.support.network import Make, receive


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
    assert one.stages["tcp0"].guests.get(hog.link).flows == 4
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


def test_remotes_that_never_read_leave_sockets_to_other_guests(network: Make) -> None:
    one = network()
    hog, other = one.card.guest(1), one.card.guest(2)
    stage = one.stages["egress0"]
    stage.bound.limit = 12
    stage.closing = ClosingFlows(one.config.max_closing_bytes, stage.bound.limit // CLOSING_PART)
    one.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for _ in range(15):
        stream, remote = one.open(hog)
        # For the guest it ends in order; what the socket has not taken waits on.
        remote.shutdown(socket.SHUT_WR)
        while not stage.stalled:
            stream.send(bytes(10000))
            one.settle()
        stream.finish()
        one.advance(0.2)
        assert not stage.stalled
    assert len(stage.flows) == 3
    assert one.counter("egress0", "egress_connection_reset_closing_full") == 12
    stream, _ = one.open(other)
    stream.reset()
    one.advance(CLOSING_PATIENCE + 1.0)
    one.everybody_leaves()
