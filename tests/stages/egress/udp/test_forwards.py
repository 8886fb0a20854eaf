"""Forwarded UDP ports in egress: clients, the addresses of ours that they use, and their bounds."""

import socket
from collections.abc import Iterator

import pytest

from pipeline.host import listener, udp_local
from pipeline.host import udp as host_udp
from pipeline.ipc.flow_rows import CLOSED, OPENED
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends
from pipeline.stages.egress.udp.forwards import UdpForwards
from pipeline.wire import ip
from tests.support.egress_rig import EgressRig

MAX_CLIENTS = 4
FLOW = FLOW_FROM_EGRESS
"""The number before that of the first flow."""


class Rig(EgressRig):
    """UdpForwards with one port, and clients of it."""

    def __init__(self, local: str) -> None:
        super().__init__(None)
        sender = host_udp.Sender(host_udp.can_segment())
        self.made = UdpForwards(self.context, sender, MAX_CLIENTS)
        sock = listener.bind_inet("udp", local)
        self.port = sock.getsockname()[1]
        self.made.add("k", sock, ip.from_ipv4(0xC0A87F02), 53)
        self.clients: list[socket.socket] = []

    def client(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(10)
        self.clients.append(sock)
        return sock

    def read(self) -> list[int]:
        """The flows of what has come; references are given back."""
        before = len(self.records)
        for callback in self.callbacks.values():
            callback(1)
        self.made.read_ready(1.0)
        found = self.records[before:]
        self.payloads(found)
        for record in found:
            ends = Ends.of(record.says.key)
            assert (ends.guest_addr, ends.guest_port, record.says.link) == (ip.from_ipv4(0xC0A87F02), 53, 0)
        return [record.says.flow - FLOW for record in found]


@pytest.fixture(params=["127.0.0.1:0", "0.0.0.0:0", ":0"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(request.param)
    yield made
    made.made.remove("k")
    for client in made.clients:
        client.close()
    assert not made.made.clients_by_id
    assert not made.made.ready
    made.retire()


def test_a_client_is_one_flow_and_hears_its_answers(rig: Rig) -> None:
    one, other = rig.client(), rig.client()
    for client in (one, other, one):
        client.sendto(b"q", ("127.0.0.1", rig.port))
    assert rig.read() == [1, 2, 1]
    rig.made.to_host(FLOW + 2, [memoryview(b"ab"), memoryview(b"c")], 2, 1.0)
    rig.made.to_host(FLOW + 1, [memoryview(b"")], 0, 1.0)
    assert [other.recv(10), other.recv(10)] == [b"ab", b"c"]
    assert one.recv(10) == b""
    assert rig.count("egress_datagrams_to_host") == 3


def test_clients_over_the_bound_are_counted_and_a_flow_that_is_over_makes_room(rig: Rig) -> None:
    clients = [rig.client() for _ in range(MAX_CLIENTS + 1)]
    for client in clients:
        client.sendto(b"q", ("127.0.0.1", rig.port))
    assert len(rig.read()) == MAX_CLIENTS
    assert rig.count("egress_datagram_dropped_too_many_clients") == 1
    rig.made.close(FLOW + 1)
    clients[-1].sendto(b"q", ("127.0.0.1", rig.port))
    assert rig.read() == [MAX_CLIENTS + 1]
    rig.made.to_host(FLOW + 1, [memoryview(b"late")], 4, 1.0)
    assert rig.count("egress_datagram_dropped_no_socket") == 1


@pytest.mark.parametrize("rig", ["0.0.0.0:0", ":0"], indirect=True)
def test_a_client_of_two_addresses_is_two_flows_each_answered_from_its_own(rig: Rig) -> None:
    client = rig.client()
    for address in ("127.0.0.1", "127.0.0.2"):
        client.sendto(b"q", (address, rig.port))
    assert rig.read() == [1, 2]
    for number, address in ((2, "127.0.0.2"), (1, "127.0.0.1")):
        rig.made.to_host(FLOW + number, [memoryview(b"a")], 1, 1.0)
        assert client.recvfrom(10) == (b"a", (address, rig.port))


@pytest.mark.parametrize("rig", ["0.0.0.0:0", ":0"], indirect=True)
@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_from_an_address_that_is_gone_comes_from_another(rig: Rig, count: int) -> None:
    client = rig.client()
    client.sendto(b"q", ("127.0.0.1", rig.port))
    assert rig.read() == [1]
    gone = udp_local._V4.pack(0, socket.inet_aton("192.0.2.77"), bytes(4))
    flow = rig.made.clients_by_id[FLOW + 1]
    flow.place = (flow.place[0], ((socket.IPPROTO_IP, udp_local._IP_PKTINFO, gone),))
    pieces = [memoryview(b"answer")] * count
    for _ in range(2):
        rig.made.to_host(FLOW + 1, pieces, 6, 1.0)
        assert [client.recv(10) for _ in pieces] == pieces
    assert rig.count("egress_datagrams_to_host") == 2 * count
    assert rig.count("egress_datagram_dropped_send_failed") == 0


def test_a_port_without_slots_reads_nothing_and_lets_the_worker_sleep(rig: Rig) -> None:
    client = rig.client()
    client.sendto(b"q", ("127.0.0.1", rig.port))
    held = []
    while rig.pool.free_count:
        held.append(rig.pool.alloc())
    assert rig.read() == []
    assert rig.count("egress_reads_paused_no_slot") == 1
    assert not rig.made.more, "a slot that comes home wakes the worker"
    for slot in held:
        rig.pool.unref(slot)
    assert rig.made.read_ready(1.0) == 1
    rig.payloads(rig.records)


def test_a_client_is_a_flow_into_the_guest(rig: Rig) -> None:
    client = rig.client()
    client.sendto(b"question", ("127.0.0.1", rig.port))
    rig.read()
    rig.made.to_host(FLOW + 1, [memoryview(b"abc"), memoryview(b"d")], 3, 2.0)
    ((kind, opened),) = rig.events.got
    assert (kind, opened.flow.direction, opened.flow.guest_address) == (OPENED, "in", "192.168.127.2")
    assert opened.flow.port == client.getsockname()[1]
    assert rig.made.end(FLOW + 1)
    assert not rig.made.end(FLOW + 1)
    kind, closed = rig.events.got[-1]
    assert (kind, closed.reason) == (CLOSED, "deleted")
    row = closed.flow
    assert (row.packets_to_guest, row.bytes_to_guest) == (1, 8)
    assert (row.packets_from_guest, row.bytes_from_guest) == (2, 4)
    assert not rig.made.clients_by_id
