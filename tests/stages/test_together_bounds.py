"""demux, tcp and egress together: what one guest, or its hosts, may take, and what is left to the others."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.network import Network, receive

Make = Callable[..., Network]


@pytest.fixture
def network() -> Iterator[Make]:
    made: list[Network] = []

    def make(**changed: int) -> Network:
        made.append(Network(**changed))
        return made[-1]

    yield make
    for each in made:
        each.close()


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
