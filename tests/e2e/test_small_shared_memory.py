"""A /dev/shm that is too small, as in many containers: the daemon says so at the start, or works."""

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
MOUNT = 'mount -t tmpfs -o size="$0" none /dev/shm && exec "$@"'


class Confined(Daemon):
    """A daemon in a mount namespace of its own, whose /dev/shm has a size."""

    def __init__(self, network: Network, size: str, *flags: str) -> None:
        super().__init__(network, *flags, name=f"shm-{size}")
        self.command = ["unshare", "--mount", "sh", "-c", MOUNT, size, *self.command]


def test_with_8_mib_of_shared_memory_it_does_not_start_and_says_how_much_is_missing(network: Network) -> None:
    daemon = Confined(network, "8m")
    with pytest.raises(AssertionError, match="ended with 1"):
        daemon.start()
    (line,) = daemon.log()[-1:]
    assert line["level"] == "critical"
    assert "MiB of shared memory are needed, /dev/shm has 8.0 MiB free: " in line["event"]
    assert "MiB are missing (use fewer -slots than 512, of 72 KiB each, or make it larger" in line["event"]
    assert not daemon.socket.exists()


def test_with_no_shared_memory_at_all_it_says_so_as_well(network: Network) -> None:
    daemon = Confined(network, "4k")
    with pytest.raises(AssertionError, match="ended with 1"):
        daemon.start()
    assert "MiB are missing" in daemon.log()[-1]["event"]


def test_with_8_mib_of_shared_memory_and_few_slots_traffic_passes(network: Network, outside: Servers) -> None:
    """Every page that the workers touch is there: SIGBUS used to come when traffic touched one too many."""
    with Confined(network, "8m", "-slots", "64") as daemon, Agent(network.guest, daemon.socket) as agent:
        for _ in range(2):
            assert agent.run("transfer", INTERNET_ADDR, DATA, 8 * MIB, 8 * MIB)["errors"] == []
