"""What one guest may take of the API and of forwards, and what /guests says about it."""

import json
from collections.abc import Iterator

import pytest

from pipeline.wire import ip, tcp
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.raw_guest import GATEWAY, RawGuest, Stream
from tests.support.servers import ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

INTERNET = ip.parse_ipv4(INTERNET_ADDR)
API = 80


@pytest.fixture
def limited(network: Network, outside: Servers) -> Iterator[Daemon]:
    """A daemon with room for few forwards."""
    limits = ("max-forwards=24", "max-forwards-of-guests=20")
    with Daemon(network, *(word for limit in limits for word in ("-limit", limit))) as made:
        yield made


def expose(guest: RawGuest, own_port: int, port: int) -> int:
    """Have the guest open a forward of the host's port. Returns the status of the answer."""
    stream: Stream = guest.connect(GATEWAY, own_port, API)
    body = json.dumps({"local": f"127.0.0.1:{port}", "remote": ":80"}).encode()
    head = b"POST /services/forwarder/expose HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    stream.send(head + body)
    status = stream.receive(12)[9:12]
    stream.reset()
    return int(status)


def guests(daemon: Daemon) -> list[dict[str, int]]:
    status, text = daemon.api("/guests")
    assert status == 200
    found: list[dict[str, int]] = json.loads(text)
    return found


def test_a_guest_leaves_forwards_to_another_one_and_to_the_host(limited: Daemon) -> None:
    with RawGuest(limited.qemu_socket, 7) as hog, RawGuest(limited.qemu_socket, 8) as other:
        statuses = [expose(hog, 4000 + n, 9000 + n) for n in range(18)]
        assert statuses == [200] * 16 + [429] * 2
        assert expose(other, 4000, 9100) == 200
        for port in range(9200, 9210):
            limited.expose(f"127.0.0.1:{port}", "192.168.127.7:80")
        found = {one["forwards"] for one in guests(limited)}
        assert found == {13, 1}, "the host took three of the guest with most"


def test_the_sums_of_each_guest(limited: Daemon) -> None:
    with RawGuest(limited.qemu_socket, 7) as guest, RawGuest(limited.qemu_socket, 8) as other:
        stream = guest.connect(INTERNET, 4000, ECHO)
        assert stream.echoes(b"hello")
        guest.send(guest.datagram(INTERNET, 5000, UDP_ECHO))
        guest.receive()
        other.send(other.segment(INTERNET, 4000, 9, 1, flags=tcp.ACK))
        other.receive()
        wait_for(lambda: len(guests(limited)) == 2, "both are known")
        mine, others = guests(limited)
        assert (mine["links"], mine["tcp_flows"], mine["udp_flows"], mine["sockets"]) == (1, 1, 1, 2)
        assert (others["links"], others["tcp_flows"], others["sockets"]) == (1, 0, 0)
        assert str(mine["opened_by"]).startswith("process ")
        assert mine["guest"] != others["guest"]
    wait_for(lambda: [one["links"] for one in guests(limited)] == [0], "gone, but for its connection")
    assert guests(limited)[0]["tcp_flows"] == 1
