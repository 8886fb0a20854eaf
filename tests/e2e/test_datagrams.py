"""Datagrams of every size in bursts: each arrives whole, in order, and never as part of another."""

from collections.abc import Iterator

import pytest

from tests.e2e.test_offload import OFFLOAD, PLAIN, checksum_errors, total
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network
from tests.support.servers import UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

BURSTS = {
    "equal": "1400*30",
    "short": "64*40",
    "one byte": "1*40",
    "shorter last": "1000*20,999,1000*5,3",
    "empty between": "500*6,0,500*6,0,0,500",
    "mixed": "10,1472,64*5,1471*5,18*7,17*7,1200,0,1",
    "over the mtu": "1400*5,1473,1400*5,3000*3,1472*4",
    "largest": "1472,65507,1472",
}
LOCAL = "127.0.0.1"


@pytest.fixture(params=[OFFLOAD, PLAIN], ids=["offload", "plain"])
def guest(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """A guest with and one without offload."""
    with Agent(daemon.network.guest, daemon.socket, *request.param) as made:
        meet_gateway(made)
        yield made


def meet_gateway(agent: Agent) -> None:
    """Let the guest's kernel learn the gateway's MAC.

    What a socket sends while the kernel empties the queue of those that waited for it may overtake them:
    Linux lets go of the neighbour's lock for each (__neigh_update).
    """
    agent.guest.run("ping", "-c", "1", "-W", "5", GATEWAY_ADDR)


def test_bursts_of_a_guest_come_back_as_they_were_sent(daemon: Daemon, guest: Agent) -> None:
    for name, sizes in BURSTS.items():
        outcome = guest.run("burst", INTERNET_ADDR, UDP_ECHO, sizes, 5)
        assert outcome["as_sent"] == outcome["sent"], f"{name}: {outcome}"
    assert checksum_errors(guest.guest) == 0
    for drop in ("udp_datagram_dropped_bad_checksum", "ipv4_packet_dropped_bad_checksum"):
        assert total(daemon, drop) == 0


def test_bursts_into_a_forwarded_port_come_back_as_they_were_sent(
    daemon: Daemon, network: Network, guest: Agent
) -> None:
    servers = Servers(guest.guest, network.directory)
    try:
        daemon.expose(f"{LOCAL}:9003", f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
        for name, sizes in BURSTS.items():
            outcome = run_client(network.host, "burst", LOCAL, 9003, sizes, 5)
            assert outcome["as_sent"] == outcome["sent"], f"{name}: {outcome}"
    finally:
        servers.close()


@pytest.mark.parametrize("mtu", ["576", "65520"])
def test_the_mtu_changes_no_datagram(network: Network, outside: Servers, mtu: str) -> None:
    with Daemon(network, "-mtu", mtu) as daemon, Agent(network.guest, daemon.socket) as agent:
        meet_gateway(agent)
        for name, sizes in BURSTS.items():
            outcome = agent.run("burst", INTERNET_ADDR, UDP_ECHO, sizes, 3)
            assert outcome["as_sent"] == outcome["sent"], f"{name}: {outcome}"
