"""demux, tcp and egress together in one process: what goes wrong only between stages.

Most of these were bugs once. In each test everything must be home at the end: slots, flows, timers.
"""

import gc
import socket

import pytest

from pipeline.engines.flows import PortAllocator
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.state import TIME_WAIT
from pipeline.records.flows import flow_key
from pipeline.records.kinds import LINK_DOWN, LINK_UP, NEIGHBOR, NEIGHBOR_GONE, SERVICE_DATAGRAM
from pipeline.stages.egress.tcp.flow import Flow as HostFlow
from pipeline.stages.tcp.flow import Flow
from pipeline.wire.tcp import ACK, FIN, RST
from tests.support.network import Make, Network, pattern, receive
from tests.support.played_guests import GATEWAY, HOST, Guest, GuestStream

# --- several shards ---------------------------------------------------------------------------------


def test_equal_flow_numbers_of_egress_shards_are_different_flows(network: Make) -> None:
    both = network(tcp_workers=2, egress_workers=2, slots=128)
    guest = both.card.guest()
    guest.listens.add(80)
    both.stages["demux"].dials.ports = PortAllocator(0)  # else the shards are drawn anew each time
    said: dict[socket.socket, bytes] = {}
    for number in range(8):
        for shard in range(2):
            client = both.accept(f"egress{shard}", guest.addr, 80)
            said[client] = b"%d.%d" % (shard, number)
            client.send(said[client])
    both.until(lambda: len(guest.accepted) == 16 and all(stream.received for stream in guest.accepted))
    shared = 0
    for shard in range(2):
        numbers = [flow.host.number for flow in both.stages[f"tcp{shard}"].connections.by_id.values()]
        shared += len(numbers) - len(set(numbers))
    assert shared  # that is what the test is about
    assert {bytes(stream.received) for stream in guest.accepted} == set(said.values())
    for stream in guest.accepted:
        stream.send(bytes(stream.received) + b"!")
        stream.finish()
    both.settle()
    for client, words in said.items():
        assert client.recv(100) == words + b"!"
        assert client.recv(100) == b""
        client.close()
    both.everybody_leaves()


def test_equal_flow_numbers_of_tcp_shards_are_different_flows(network: Make) -> None:
    both = network(tcp_workers=2, egress_workers=2, slots=128)
    guest = both.card.guest()
    streams = [guest.connect(both.port) for _ in range(40)]
    for index, stream in enumerate(streams):
        stream.send(pattern(index, 3000))
    both.settle()
    shared = 0
    for shard in range(2):
        numbers = [key & 0xFFFFFFFF for key in both.stages[f"egress{shard}"].connections.flows.by_key]
        shared += len(numbers) - len(set(numbers))
        # One server, one port: its connections are spread all the same.
        assert len(numbers) > 5
    assert shared  # so it is, but once in a million
    found = set()
    for _ in streams:
        sock = both.accepted()
        got = bytearray()
        receive(sock, got)
        found.add(bytes(got))
        sock.send(bytes(got[:2]))
        sock.close()
    assert found == {pattern(index, 3000) for index in range(40)}
    both.settle()
    for index, stream in enumerate(streams):
        assert stream.received == pattern(index, 2)[:2]
        stream.finish()
    both.everybody_leaves()


def test_equal_numbers_of_forwarded_datagrams_are_different_flows(network: Make) -> None:
    both = network(egress_workers=2)
    guest = both.card.guest()
    clients = []
    for shard in range(2):
        client = both.forwarded_port(f"egress{shard}", guest.addr)
        client.send(b"%d" % shard)
        clients.append(client)
    both.until(lambda: len(guest.datagrams) == 2)
    for one in guest.datagrams:
        guest.datagram(one.ports & 0xFFFF, one.payload * 3, remote=one.src, own_port=53000)
    both.settle()
    assert [client.recv(100) for client in clients] == [b"000", b"111"]
    for shard in range(2):
        both.stages[f"egress{shard}"].on_control({"op": "udp_unforward", "key": "k"}, [])
    both.everybody_leaves()


# --- TIME-WAIT, timers ------------------------------------------------------------------------------


def in_time_wait(net: Network, guest: Guest, own_port: int = 0) -> GuestStream:
    """A connection whose first FIN was the gateway's, and so is the wait."""
    stream, sock = net.open(guest, own_port)
    sock.close()
    net.settle()
    stream.finish()
    net.until(lambda: stream.gone)
    flow = net.stages["tcp0"].connections.by_key[
        flow_key(guest.addr, stream.port, HOST, stream.key[1] & 0xFFFF)
    ]
    assert flow.conn.state == TIME_WAIT
    return stream


def test_a_connection_that_ends_and_makes_room_within_one_burst_ends_once(network: Make) -> None:
    one = network(max_tcp_flows_per_guest=2)
    guest = one.card.guest()
    first, second = in_time_wait(one, guest), in_time_wait(one, guest)
    # All in one burst: the end of the first, a FIN that the second answers, a SYN that the first makes
    # room for, and one that takes the second's ports.
    first.say(RST | ACK)
    second.say(FIN | ACK, back=1)
    new, again = guest.connect(one.port), guest.connect(one.port, own_port=second.port)
    one.settle()
    assert new.established
    assert again.established
    assert one.counter("tcp0", "tcp_flow_evicted_time_wait") == 1
    assert len(one.stages["tcp0"].connections.by_id) == 2
    for stream in (new, again):
        one.accepted().close()
        stream.finish()
    one.everybody_leaves()


def test_ports_that_are_used_again_within_the_burst_of_the_last_fin(network: Make) -> None:
    one = network()
    guest = one.card.guest()
    old, sock = one.open(guest)
    sock.close()
    one.settle()
    one.advance(5.0)  # its timer is that of keep-alive now
    assert old.eof
    old.say(FIN | ACK)
    new = guest.connect(one.port, own_port=old.port)
    one.settle()
    assert new.established
    stage = one.stages["tcp0"]
    assert (len(stage.connections), len(stage.connections.timers)) == (1, 1)
    one.accepted().close()
    new.finish()
    one.everybody_leaves()


def test_timers_of_connections_that_are_over_do_not_fire(
    network: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = network(max_tcp_flows_per_guest=2)
    guest = one.card.guest()
    stage = one.stages["tcp0"]
    fired: list[bool] = []
    on_timer = Connection.on_timer

    def watched(conn: Connection, now: float) -> None:
        mine = [flow for flow in seen if flow.conn is conn]
        fired.extend(stage.connections.by_id.get(flow.host.id) is flow for flow in mine)
        on_timer(conn, now)

    seen: set[Flow] = set()
    old = in_time_wait(one, guest)
    in_time_wait(one, guest)
    seen.update(stage.connections.by_id.values())
    monkeypatch.setattr(Connection, "on_timer", watched)
    one.advance(30.0)
    # One is replaced, the other makes room; their waits would end in half a minute.
    again, sock = one.open(guest, old.port)
    other, other_sock = one.open(guest)
    seen.update(stage.connections.by_id.values())
    one.advance(3600.0)
    assert all(fired)
    again.send(b"still there")
    one.until(lambda: len(sock.recv(100, socket.MSG_PEEK)) == 11)
    assert one.counter("tcp0", "tcp_flows") == 2
    for stream, end in ((again, sock), (other, other_sock)):
        stream.finish()
        end.close()
    one.everybody_leaves()


def test_timers_of_connections_that_are_over_do_not_stay(network: Make) -> None:
    one = network()
    guest = one.card.guest()
    for _ in range(100):
        stream, sock = one.open(guest)
        stream.reset()
        sock.close()
        one.settle()
    stage = one.stages["tcp0"]
    assert not stage.connections
    assert not stage.connections.timers
    gc.collect()
    assert not any(isinstance(found, Flow) for found in gc.get_objects())
    one.everybody_leaves()


# --- slots ------------------------------------------------------------------------------------------


def waiting(net: Network) -> int:
    """Flows of egress that wait for slots."""
    return int(net.stages["egress0"].held()["waiting_for_slots"])


def test_flows_that_wait_for_slots_are_all_woken(network: Make) -> None:
    one = network()
    guest, other = one.card.guest(1), one.card.guest(2)
    pairs = [one.open(guest) for _ in range(20)] + [one.open(other) for _ in range(5)]
    size = 400_000
    left = {sock: pattern(index, size)[:size] for index, (_, sock) in enumerate(pairs)}

    def send() -> None:
        for sock in left:
            while left[sock]:
                try:
                    left[sock] = left[sock][sock.send(left[sock][:65536]) :]
                except BlockingIOError:
                    break

    for stream, _ in pairs:
        stream.deaf = True
    send()
    one.settle()
    assert waiting(one) > 5
    assert one.workers["egress0"].pool.free_count < 10
    for stream, _ in pairs:
        stream.deaf = False

    def all_there() -> bool:
        send()
        return all(len(stream.received) == size for stream, _ in pairs)

    one.until(all_there)
    assert waiting(one) == 0
    for index, (stream, sock) in enumerate(pairs):
        assert stream.received == pattern(index, size)[:size]
        sock.close()
        stream.finish()
    one.everybody_leaves()


# --- guests that are dialled ------------------------------------------------------------------------


def hung_up_on(client: socket.socket) -> bool:
    """Whether the host client's connection has ended, without a byte for it."""
    got = bytearray()
    return receive(client, got) and bytes(got) in (b"", b"!")


def test_a_forward_whose_port_is_in_use_takes_the_next(network: Make) -> None:
    one = network(egress_workers=2)
    guest = one.card.guest()
    guest.listens.add(80)
    clients: list[socket.socket] = []
    for shard in (0, 1, 0):
        # The walk over the gateway's ports begins where it began before.
        one.stages["demux"].dials.ports = PortAllocator(5)
        client = one.accept(f"egress{shard}", guest.addr, 80, b"<first>")
        client.send(b"%d" % len(clients))
        clients.append(client)
        one.until(lambda: len(guest.accepted) == len(clients) and guest.accepted[-1].received)
    assert [stream.key[1] & 0xFFFF for stream in guest.accepted] == [49157, 49158, 49159]
    for index, (stream, client) in enumerate(zip(guest.accepted, clients, strict=True)):
        one.settle()
        assert stream.received == b"<first>%d" % index
        stream.send(b"to %d" % index)
        one.settle()
        assert client.recv(100) == b"to %d" % index
        client.close()
        stream.finish()
    one.everybody_leaves()


def test_a_forward_without_any_port_left_is_closed(network: Make) -> None:
    one = network()
    guest = one.card.guest()
    guest.listens.add(80)
    one.stages["demux"].dials.ports = PortAllocator(0, 50000, 50000)
    first = one.accept("egress0", guest.addr, 80)
    one.until(lambda: guest.accepted)
    second = one.accept("egress0", guest.addr, 80)
    one.until(lambda: hung_up_on(second))
    assert len(guest.accepted) == 1
    assert one.stages["egress0"].held()["flows"] == 1
    first.close()
    one.settle()
    guest.accepted[0].finish()
    one.everybody_leaves()


def test_a_port_of_a_connection_in_time_wait_is_not_dialled_from(network: Make) -> None:
    one = network()
    guest = one.card.guest()
    guest.listens.add(80)
    for _ in range(2):
        one.stages["demux"].dials.ports = PortAllocator(0)
        client = one.accept("egress0", guest.addr, 80)
        one.until(lambda: guest.accepted and not guest.accepted[-1].gone)
        client.close()
        one.settle()
        guest.accepted[-1].finish()
        one.until(lambda: guest.accepted[-1].gone)
    assert [stream.key[1] & 0xFFFF for stream in guest.accepted] == [49152, 49153]
    one.everybody_leaves()


def test_a_forward_to_nobody_and_to_a_closed_port_are_closed(network: Make) -> None:
    one = network()
    guest = one.card.guest()
    refused = one.accept("egress0", guest.addr, 80, b"lost")
    nobody = one.accept("egress0", guest.addr + 9, 80)
    refused.send(b"lost too")
    one.advance(5.0)
    assert hung_up_on(refused)
    assert hung_up_on(nobody)
    one.everybody_leaves()


def test_a_client_that_is_gone_before_its_guest_answers_ends_in_order(network: Make) -> None:
    one = network()
    guest = one.card.guest()
    guest.listens.add(80)
    client = one.accept("egress0", guest.addr, 80)
    client.send(b"bye")
    client.close()
    one.until(lambda: guest.accepted and guest.accepted[0].eof)
    assert guest.accepted[0].received == b"bye"
    guest.accepted[0].send(b"too late")
    guest.accepted[0].finish()
    one.everybody_leaves()


# --- guests that leave ------------------------------------------------------------------------------


def test_a_guest_that_leaves_behind_its_syn_leaves_nothing(network: Make) -> None:
    one = network()
    # Egress hears of the link's end before it is asked for the connection.
    one.order = ["ingress", "demux", "egress0", "tcp0", "resolver", "listen"]
    guest = one.card.guest()
    guest.connect(one.port)
    one.breathe("ingress")
    guest.leave()
    one.settle()
    one.accepted()
    one.everybody_leaves()


def test_the_resolver_hears_of_a_guest_that_is_gone_behind_its_last_datagram(network: Make) -> None:
    one = network()
    guest = one.card.guest(3)
    guest.datagram(67, b"x", remote=GATEWAY)
    one.breathe("ingress")
    guest.leave()
    one.settle()
    told = one.neighbours["resolver"].take()
    about_links = [record for record in told if record.kind not in (NEIGHBOR, NEIGHBOR_GONE)]
    assert [(record.kind, record.link) for record in about_links] == [
        (LINK_UP, 3),
        (SERVICE_DATAGRAM, 3),
        (LINK_DOWN, 3),
    ]


def test_a_guest_that_vanishes_with_all_open_leaves_nothing_in_the_end(network: Make) -> None:
    one = network(tcp_workers=2, egress_workers=2)
    guest = one.card.guest()
    guest.listens.add(80)
    pairs = [one.open(guest) for _ in range(4)]
    dialled = one.accept("egress1", guest.addr, 80)
    one.until(lambda: guest.accepted)
    pairs[0][0].send(b"x" * 1000)
    pairs[1][1].send(b"x" * 500_000)
    pairs[2][1].close()
    guest.datagram(one.port, b"x")
    one.settle()
    pairs[1][1].send(b"more")
    guest.leave()
    one.at_home()
    one.nothing_open()
    assert hung_up_on(dialled)


def test_connections_that_are_over_leave_no_reference_cycles(network: Make) -> None:
    """Python looks for cycles seldom (COLLECT_AFTER of the loop), so a cycle would keep memory for long."""

    def flows() -> int:
        return sum(isinstance(found, Flow | HostFlow) for found in gc.get_objects())

    one = network()
    guest = one.card.guest()
    gc.collect()
    before = flows()
    gc.disable()
    try:
        for reset in (True, False):
            stream, sock = one.open(guest)
            assert flows() == before + 2
            if reset:
                stream.reset()
            else:
                stream.finish()
            sock.close()
            one.settle()
        one.advance(120.0)
        assert flows() == before
    finally:
        gc.enable()
    one.everybody_leaves()
