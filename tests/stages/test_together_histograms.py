"""demux, tcp and egress together: what the histograms say of connections."""

import socket

import pytest

from pipeline.histograms import BY_NAME
from tests.support.network import Network


@pytest.fixture
def one() -> "Network":
    with Network() as made:
        yield made  # type: ignore[misc]


def observed(one: Network, worker: str, name: str) -> tuple[int, int]:
    """How many values were counted, and their sum."""
    *buckets, total = one.fabric.counters(worker).histogram(BY_NAME[name])
    return sum(buckets), total


def test_a_connection_is_counted_once_when_it_has_ended(one: Network) -> None:
    guest = one.card.guest()
    stream, host = one.open(guest)
    assert observed(one, "egress0", "tcp_connect")[0] == 1
    stream.send(b"x" * 3000)
    one.settle()
    assert len(host.recv(5000)) == 3000
    host.sendall(b"y" * 70000)
    one.until(lambda: len(stream.received) == 70000, "the answer")
    assert observed(one, "tcp0", "tcp_flow_duration")[0] == 0
    one.advance(5.0)
    host.close()
    one.settle()
    stream.finish()
    one.advance(100.0)
    count, microseconds = observed(one, "tcp0", "tcp_flow_duration")
    assert count == 1
    assert microseconds >= 5_000_000
    assert observed(one, "tcp0", "tcp_rtt")[0] == 1
    # A FIN may count as one byte.
    assert observed(one, "tcp0", "tcp_flow_from_guest") == (1, pytest.approx(3000, abs=1))
    assert observed(one, "tcp0", "tcp_flow_to_guest") == (1, pytest.approx(70000, abs=1))
    one.everybody_leaves()


def test_a_connection_that_is_refused_is_in_no_histogram(one: Network) -> None:
    guest = one.card.guest()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        guest.connect(nobody.getsockname()[1])
        one.settle()
    one.advance(200.0)
    assert observed(one, "egress0", "tcp_connect")[0] == 0
    assert observed(one, "tcp0", "tcp_flow_duration")[0] == 0
    one.everybody_leaves()
