"""Fixtures of the end-to-end tests: one internet with servers a module, one daemon and guest a test.

Modules marked ``one_daemon`` have one daemon and guest for all their tests, which saves their start and stop.
All slots are counted behind each test there as well. A test of such a module that starts its own does so
beside them: with another name, and with the second guest.
"""

from collections.abc import Iterator

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import Network, leftovers, new_shared_memory, shared_memory
from tests.support.servers import Servers


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Namespaces for two guests; nothing of them and nothing in /dev/shm may remain."""
    before = shared_memory()
    with Network(guest_count=2) as made:
        yield made
    assert leftovers() == []
    assert not new_shared_memory(before)


@pytest.fixture(scope="module")
def outside(network: Network) -> Iterator[Servers]:
    """Servers in the internet namespace."""
    servers = Servers(network.internet, network.directory)
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def daemon_of_module(network: Network, outside: Servers) -> Iterator[Daemon]:
    """A daemon with default flags; stopped and audited behind the last test."""
    with Daemon(network) as made:
        yield made


@pytest.fixture(scope="module")
def agent_of_module(daemon_of_module: Daemon) -> Iterator[Agent]:
    """The first guest of the module's daemon."""
    with Agent(daemon_of_module.network.guest, daemon_of_module.socket) as made:
        yield made


@pytest.fixture
def daemon(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Daemon]:
    """A daemon with default flags; stopped and audited behind the test."""
    if request.node.get_closest_marker("one_daemon"):
        shared: Daemon = request.getfixturevalue("daemon_of_module")
        yield shared
        shared.wait_for_free_slots()
        return
    with Daemon(network) as made:
        yield made


@pytest.fixture
def agent(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Agent]:
    """The first guest, with an address by DHCP."""
    if request.node.get_closest_marker("one_daemon"):
        yield request.getfixturevalue("agent_of_module")
        return
    with Agent(daemon.network.guest, daemon.socket) as made:
        yield made


@pytest.fixture
def inside(daemon: Daemon, agent: Agent) -> Iterator[Servers]:
    """Servers in the guest."""
    servers = Servers(agent.guest, daemon.network.directory)
    yield servers
    servers.close()
