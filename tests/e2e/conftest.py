"""Fixtures of the end-to-end tests: one internet with servers a module, one daemon and guest a test."""

from collections.abc import Iterator

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import Network, leftovers, shared_memory
from tests.support.servers import Servers


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Namespaces for two guests; nothing of them and nothing in /dev/shm may remain."""
    before = shared_memory()
    with Network(guest_count=2) as made:
        yield made
    assert leftovers() == []
    assert shared_memory() == before


@pytest.fixture(scope="module")
def outside(network: Network) -> Iterator[Servers]:
    """Servers in the internet namespace."""
    servers = Servers(network.internet, network.directory)
    yield servers
    servers.close()


@pytest.fixture
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    """A daemon with default flags; stopped and audited behind the test."""
    with Daemon(network) as made:
        yield made


@pytest.fixture
def agent(daemon: Daemon) -> Iterator[Agent]:
    """The first guest, with an address by DHCP."""
    with Agent(daemon.network.guest, daemon.socket) as made:
        yield made


@pytest.fixture
def inside(daemon: Daemon, agent: Agent) -> Iterator[Servers]:
    """Servers in the guest."""
    servers = Servers(agent.guest, daemon.network.directory)
    yield servers
    servers.close()
