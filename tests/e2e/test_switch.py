"""Two guests on one virtual network."""

import json
from collections.abc import Iterator

import pytest

from tests.support.agent import GUEST_ADDR, Agent, address
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
OTHER_MAC = "5a:94:ef:e4:0c:99"
OTHER_ADDR = "192.168.127.3"


@pytest.fixture
def other(daemon: Daemon, agent: Agent) -> Iterator[Agent]:
    """A second guest."""
    with Agent(daemon.network.guests[1], daemon.socket, mac=OTHER_MAC) as made:
        yield made


def test_each_guest_has_an_address_of_its_own(agent: Agent, other: Agent) -> None:
    assert address(agent.guest) == f"{GUEST_ADDR}/24"
    assert address(other.guest) == f"{OTHER_ADDR}/24"


def test_guests_reach_each_other(agent: Agent, other: Agent, inside: Servers) -> None:
    other.guest.run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", GUEST_ADDR)
    agent.guest.run("ping", "-n", "-c", "1", "-W", "2", OTHER_ADDR)
    assert other.run("transfer", GUEST_ADDR, DATA, 16 * MIB, 16 * MIB)["errors"] == []
    assert other.run("udp", GUEST_ADDR, UDP_ECHO, 1400, 10)["received"] == 10


def test_both_guests_reach_the_outside_at_once(agent: Agent, other: Agent) -> None:
    for guest in (agent, other):
        assert guest.run("transfer", INTERNET_ADDR, DATA, 4 * MIB, 4 * MIB, 4)["errors"] == []


def test_the_table_of_macs_follows_guests_coming_and_going(
    daemon: Daemon, agent: Agent, other: Agent
) -> None:
    table = json.loads(daemon.api("/cam")[1])
    assert set(table) == {"5a:94:ef:e4:0c:ee", OTHER_MAC}
    assert len(set(table.values())) == 2


def test_a_guest_that_leaves_takes_nothing_from_the_other(daemon: Daemon, agent: Agent) -> None:
    with Agent(daemon.network.guests[1], daemon.socket, mac=OTHER_MAC) as other:
        assert other.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
    assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
