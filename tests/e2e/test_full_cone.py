"""``udp-nat``: answers from other ports and hosts, as those of TFTP and STUN, with full cone and without."""

import errno
import socket
from collections.abc import Iterator

import pytest

from tests.e2e.test_datagrams import BURSTS, meet_gateway
from tests.support.agent import HOST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, SECOND_ADDR, Namespace, Network, wait_for
from tests.support.servers import UDP_ECHO, Servers

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]

TFTP = 69
STUN = 3478
BLOCK = 512


@pytest.fixture(scope="module")
def daemon_of_module(network: Network, outside: Servers) -> Iterator[Daemon]:
    """Two egress workers: all flows of a guest's port are one worker's."""
    with Daemon(network, "-udp-nat", "full-cone", "-egress-workers", "2") as made:
        yield made


def udp(namespace: Namespace, address: str = "", port: int = 0) -> socket.socket:
    """A socket inside, bound where that is said."""

    def made() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(10)
        if address:
            sock.bind((address, port))
        return sock

    return namespace.call(made)


def fetch(client: socket.socket, server: socket.socket, own: socket.socket, where: str, blocks: int) -> int:
    """A file by TFTP's rules (RFC 1350 section 4): all blocks come from another port; that port."""
    client.sendto(b"\0\1file\0octet\0", (where, TFTP))
    request, peer = server.recvfrom(100)
    assert request.startswith(b"\0\1file")
    told = 0
    for number in range(1, blocks + 1):
        block = b"\0\3" + number.to_bytes(2, "big") + bytes([number % 251]) * BLOCK
        own.sendto(block, peer)
        got, source = client.recvfrom(2000)
        assert (got, source[0]) == (block, where)
        assert told in (0, source[1])
        told = source[1]
        client.sendto(b"\0\4" + got[2:4], source)
        assert own.recvfrom(100) == (b"\0\4" + number.to_bytes(2, "big"), peer)
    return told


def test_tftp_fetches_a_file_whose_blocks_come_from_another_port(
    daemon: Daemon, network: Network, agent: Agent
) -> None:
    with (
        udp(network.internet, INTERNET_ADDR, TFTP) as server,
        udp(network.internet, INTERNET_ADDR) as own,
        udp(agent.guest) as client,
    ):
        assert fetch(client, server, own, INTERNET_ADDR, 300) == own.getsockname()[1]


def test_tftp_of_the_hosts_loopback_answers_from_the_address_that_was_asked(
    daemon: Daemon, network: Network, agent: Agent
) -> None:
    with (
        udp(network.host, "127.0.0.1", TFTP) as server,
        udp(network.host, "127.0.0.1") as own,
        udp(agent.guest) as client,
    ):
        assert fetch(client, server, own, HOST_ADDR, 50) == own.getsockname()[1]


def test_stun_sees_one_address_of_the_guest_from_every_server_and_peers_reach_it(
    daemon: Daemon, network: Network, agent: Agent
) -> None:
    with (
        udp(network.internet, INTERNET_ADDR, STUN) as one,
        udp(network.internet, SECOND_ADDR, STUN) as other,
        udp(network.internet, SECOND_ADDR) as peer,
        udp(agent.guest) as client,
    ):
        seen = []
        for server, address in ((one, INTERNET_ADDR), (other, SECOND_ADDR)):
            client.sendto(b"bind", (address, STUN))
            seen.append(server.recvfrom(100)[1])
            server.sendto(repr(seen[-1]).encode(), seen[-1])
            assert client.recvfrom(100) == (repr(seen[-1]).encode(), (address, STUN))
        assert seen[0] == seen[1]
        # RFC 5780 section 4.4: other port, other address, and a peer that has only heard of the address.
        with udp(network.internet, INTERNET_ADDR) as other_port:
            other_port.sendto(b"other port", seen[0])
            assert client.recvfrom(100) == (b"other port", other_port.getsockname())
        peer.sendto(b"peer", seen[0])
        assert client.recvfrom(100) == (b"peer", peer.getsockname())
        client.sendto(b"answer", peer.getsockname())
        assert peer.recvfrom(100) == (b"answer", seen[0])


def test_two_guest_ports_and_what_comes_for_them_stay_apart(
    daemon: Daemon, network: Network, agent: Agent
) -> None:
    with (
        udp(network.internet, INTERNET_ADDR, STUN) as server,
        udp(network.internet, SECOND_ADDR) as stranger,
        udp(agent.guest) as first,
        udp(agent.guest) as second,
    ):
        places = []
        for client in (first, second):
            client.sendto(b"bind", (INTERNET_ADDR, STUN))
            places.append(server.recvfrom(100)[1])
        assert places[0] != places[1]
        for number in range(40):
            for place in places:
                stranger.sendto(b"%d for %d" % (number, place[1]), place)
        for client, place in zip((first, second), places, strict=True):
            assert [client.recv(100) for _ in range(40)] == [b"%d for %d" % (n, place[1]) for n in range(40)]


def test_bursts_come_back_whole_and_in_order(daemon: Daemon, agent: Agent) -> None:
    meet_gateway(agent)
    for name, sizes in BURSTS.items():
        outcome = agent.run("burst", INTERNET_ADDR, UDP_ECHO, sizes, 5)
        assert outcome["as_sent"] == outcome["sent"], f"{name}: {outcome}"
    outcome = agent.run("segmented", INTERNET_ADDR, UDP_ECHO, 1400, 40)
    assert (outcome["received"], outcome["different"]) == (40, 0)


def test_a_closed_port_is_refused_in_the_guest(daemon: Daemon, network: Network, agent: Agent) -> None:
    with udp(agent.guest) as client:
        client.connect((INTERNET_ADDR, 9))
        client.send(b"x")
        with pytest.raises(OSError) as refused:
            client.recv(100)
        assert refused.value.errno == errno.ECONNREFUSED


def test_without_it_only_the_one_who_was_asked_may_answer(network: Network, outside: Servers) -> None:
    with (
        Daemon(network, name="own") as daemon,
        Agent(network.guests[1], daemon.socket) as agent,
        udp(network.internet, INTERNET_ADDR, TFTP) as server,
        udp(network.internet, INTERNET_ADDR) as other_port,
        udp(agent.guest) as client,
    ):
        client.sendto(b"request", (INTERNET_ADDR, TFTP))
        _, peer = server.recvfrom(100)
        other_port.sendto(b"from another port", peer)
        server.sendto(b"from the one asked", peer)
        assert client.recvfrom(100) == (b"from the one asked", (INTERNET_ADDR, TFTP))


def test_the_policy_holds_for_those_who_answer(network: Network, outside: Servers) -> None:
    path = network.directory / "cone.yaml"
    path.write_text(
        "udp-nat: full-cone\n"
        f"egress-policy: {{default: deny, rules: [{{action: allow, networks: [{INTERNET_ADDR}]}}]}}\n"
    )
    with (
        Daemon(network, "-config", str(path), name="own") as daemon,
        Agent(network.guests[1], daemon.socket) as agent,
        udp(network.internet, INTERNET_ADDR, TFTP) as server,
        udp(network.internet, INTERNET_ADDR) as allowed,
        udp(network.internet, SECOND_ADDR) as forbidden,
        udp(agent.guest) as client,
    ):
        client.sendto(b"request", (INTERNET_ADDR, TFTP))
        _, peer = server.recvfrom(100)
        forbidden.sendto(b"forbidden", peer)
        allowed.sendto(b"allowed", peer)
        assert client.recvfrom(100) == (b"allowed", allowed.getsockname())
        wait_for(
            lambda: sum(daemon.gauge("egress_datagram_dropped_policy").values()) == 1, "the drop is counted"
        )
