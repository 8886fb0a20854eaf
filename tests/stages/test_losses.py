"""Workers die between two breaths and have successors: what ends with them, what goes on, and all slots."""

import random
import socket

import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.counters import INDEX
from pipeline.records.flows import flow_key
from pipeline.stages.tcp.flow import Flow
from tests.stages.test_together_random import NETWORKS, Run
from tests.support.network import Network, pattern, receive
from tests.support.played_guests import GuestStream

TWO = {"slots": 96, "tcp_workers": 2, "egress_workers": 2}
SOME = 12
LENGTH = 300_000


def flow_of(net: Network, stream: GuestStream) -> Flow:
    """The connection in the tcp worker that has it."""
    remote, ports = stream.key
    key = flow_key(stream.guest.addr, ports >> 16, remote, ports & 0xFFFF)
    found = [net.stages[name].connections.by_key.get(key) for name in net.layout.shards("tcp")]
    (flow,) = [flow for flow in found if flow is not None]
    assert isinstance(flow, Flow)
    return flow


def shard_of(net: Network, stream: GuestStream) -> str:
    """The name of that worker."""
    flow = flow_of(net, stream)
    (name,) = [name for name in net.layout.shards("tcp") if flow.key in net.stages[name].connections.by_key]
    return name


def transfer(net: Network, stream: GuestStream, sock: socket.socket, number: int) -> None:
    """Both ends send bytes, which must arrive."""
    up, down = pattern(number, LENGTH)[:LENGTH], pattern(number + 100, LENGTH)[:LENGTH]
    stream.received.clear()
    stream.send(up)
    heard = bytearray()
    left = down

    def done() -> bool:
        nonlocal left
        try:
            while left:
                left = left[sock.send(left) :]
        except BlockingIOError:
            pass
        receive(sock, heard)
        return len(heard) >= LENGTH and len(stream.received) >= LENGTH

    net.until(done, "the transfer")
    assert heard == up
    assert stream.received == down


def start_transfer(stream: GuestStream, sock: socket.socket) -> None:
    """Put bytes into both directions, of which some are on their way."""
    stream.send(bytes(50_000))
    sock.send(bytes(50_000))


@pytest.mark.parametrize("dead", ["egress0", "tcp0"])
def test_connections_of_living_workers_go_on_and_those_of_the_dead_one_are_reset(dead: str) -> None:
    with Network(**TWO) as net:
        guest = net.card.guest()
        pairs = [net.open(guest) for _ in range(SOME)]
        lost, kept = [], []
        for stream, sock in pairs:
            flow = flow_of(net, stream)
            where = f"egress{flow.host.egress}", shard_of(net, stream)
            (lost if dead in where else kept).append((stream, sock))
        assert lost
        assert kept
        for stream, sock in lost:
            start_transfer(stream, sock)
            net.breathe("ingress", "tcp0", "egress0")
        net.die(dead)
        assert net.references() == net.references_counted()
        for number, (stream, sock) in enumerate(kept):
            transfer(net, stream, sock, number)
        for stream, sock in lost:
            heard = bytearray()
            net.until(lambda sock=sock, heard=heard: receive(sock, heard), "the end at the host")
            # The guest of a dead tcp worker learns it from the answer to its next segment.
            stream.send(b"more")
            net.until(lambda stream=stream: stream.failed or stream.gone, "the end at the guest")
        for number in range(SOME):
            stream, sock = net.open(guest)
            transfer(net, stream, sock, number)
            pairs.append((stream, sock))
        for stream, sock in pairs:
            sock.close()
            if not stream.gone:
                stream.finish()
        net.everybody_leaves()


def test_all_connections_go_on_without_demux_and_datagrams_find_their_way_again() -> None:
    with Network(**TWO) as net:
        guest, server = net.card.guest(), net.udp_server()
        pairs = [net.open(guest) for _ in range(SOME)]
        for stream, sock in pairs:
            start_transfer(stream, sock)
        port = server.getsockname()[1]

        def echo() -> None:
            guest.datagrams.clear()
            guest.datagram(port, b"question")

            def answered() -> bool:
                try:
                    words, address = server.recvfrom(100)
                    server.sendto(words, address)
                except BlockingIOError:
                    pass
                return bool(guest.datagrams)

            net.until(answered, "the echo")

        for _ in range(3):
            echo()
        net.die("demux")
        assert net.references() == net.references_counted()
        assert net.held_by("egress0")["udp_flows"] + net.held_by("egress1")["udp_flows"] == 0
        for _ in range(3):
            echo()
        net.until(lambda: all(len(stream.received) == 50_000 for stream, _ in pairs), "all bytes")
        for number, (stream, sock) in enumerate(pairs):
            heard = bytearray()
            net.until(lambda sock=sock, heard=heard: receive(sock, heard) or len(heard) == 50_000, "bytes")
            transfer(net, stream, sock, number)
            sock.close()
            stream.finish()
        net.everybody_leaves()


def test_a_guest_that_leaves_while_demux_is_dead_leaves_nothing() -> None:
    with Network(**TWO) as net:
        first, second = net.card.guest(1), net.card.guest(2)
        net.open(first)
        stream, sock = net.open(second)
        first.leave()
        # Ingress has said it, tcp has not read it, and demux never will.
        net.breathe("ingress")
        net.die("demux")
        transfer(net, stream, sock, 1)
        sock.close()
        stream.finish()
        net.advance(100.0)
        second.leave()
        net.at_home()


def test_a_guest_that_connects_while_a_host_answers_late_is_served_by_the_successor() -> None:
    with Network() as net:
        guest = net.card.guest()
        net.settle()
        stream = guest.connect(net.port)
        # The SYN is with tcp, which has asked egress. Egress has not read that.
        net.breathe("ingress", "demux", "tcp0")
        net.die("egress0")
        net.until(lambda: stream.established, "handshake")
        transfer(net, stream, net.accepted(), 1)
        stream.finish()
        guest.leave()
        net.at_home()


@pytest.mark.parametrize("ipv6", [{}, {"ipv6_enabled": "off", "ipv6_prefix": ""}])
@pytest.mark.parametrize("asked", [False, True])
def test_a_rule_about_a_link_holds_in_a_successor_from_its_first_breath_on(
    ipv6: dict[str, str], asked: bool
) -> None:
    rules = (PolicyRule("deny", guests=("link:1",)),)
    with Network(egress_policy=EgressPolicy("allow", rules), **ipv6) as net:
        guest = net.card.guest(1)
        guest.datagram(9, b"here")
        net.settle()
        assert guest.link == 1
        if asked:
            # The SYN is with tcp, which has asked egress. Egress has not read that.
            stream = guest.connect(net.port)
            net.breathe("ingress", "demux", "tcp0")
        net.die("egress0")
        net.breathe("tcp0", "egress0")
        if not asked:
            stream = guest.connect(net.port)
        refused = INDEX["egress_flow_refused_policy"]
        net.until(lambda: stream.established or net.workers["egress0"].counts[refused], "the refusal")
        assert not stream.established
        guest.leave()
        net.at_home()


def test_a_host_client_whose_dial_is_lost_sees_its_connection_end() -> None:
    with Network() as net:
        guest = net.card.guest()
        guest.listens.add(80)
        guest.datagram(9, b"here")
        net.settle()
        client = net.accept("egress0", guest.addr, 80)
        net.breathe("egress0", "demux", "tcp0")
        net.die("tcp0")
        net.until(lambda: receive(client, bytearray()), "the end")
        assert net.references() == net.references_counted()
        guest.leave()
        net.at_home()


@pytest.mark.parametrize("passed", [("egress0",), ("egress0", "demux"), ("egress0", "demux", "tcp0")])
def test_a_host_client_reaches_its_guest_although_demux_dies_on_the_way(passed: tuple[str, ...]) -> None:
    with Network() as net:
        guest = net.card.guest()
        guest.listens.add(80)
        guest.datagram(9, b"here")
        net.settle()
        client = net.accept("egress0", guest.addr, 80)
        net.breathe(*passed)
        net.die("demux")
        net.until(lambda: guest.accepted and guest.accepted[0].established, "the connection")
        transfer(net, guest.accepted[0], client, 1)
        assert len(guest.accepted) == 1
        client.close()
        guest.accepted[0].finish()
        guest.leave()
        net.at_home()


def test_with_several_tcp_workers_a_host_client_whose_demux_dies_sees_its_connection_end() -> None:
    with Network(**TWO) as net:
        guest = net.card.guest()
        guest.listens.add(80)
        guest.datagram(9, b"here")
        net.settle()
        client = net.accept("egress0", guest.addr, 80)
        net.breathe("egress0", "demux", "tcp0", "tcp1")
        net.die("demux")
        net.until(lambda: receive(client, bytearray()), "the end")
        assert net.references() == net.references_counted()
        guest.leave()
        net.at_home()


def test_an_answer_of_a_guest_to_a_dial_that_nobody_knows_ends_its_connection() -> None:
    with Network() as net:
        guest = net.card.guest()
        guest.listens.add(80)
        guest.datagram(9, b"here")
        net.settle()
        net.accept("egress0", guest.addr, 80)
        net.breathe("egress0", "demux")
        # The dial is on its way to tcp when its egress worker dies.
        net.die("egress0")
        net.until(lambda: guest.accepted and guest.accepted[0].failed, "the reset")
        guest.leave()
        net.at_home()


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_reference_is_lost_or_given_back_twice_whoever_dies_when(kind: str) -> None:
    with Network(run=("demux", "tcp", "egress", "resolver"), seed=3, **NETWORKS[kind]) as net:
        run = Run(net, 3)
        rng = random.Random(3)
        mortal = [name for name in net.layout.names if name not in ("ingress", "listen")]
        for step in range(160):
            run.step()
            if step % 8 == 7:
                net.die(*rng.sample(mortal, rng.choice((1, 1, 1, 2))))
                for pair in run.pairs:
                    pair.broken = True
            assert net.references() == net.references_counted()
        run.end()
        net.everybody_leaves()
