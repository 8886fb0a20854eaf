"""The wall clock jumps, as after a suspension, or when a time service corrects it. Guests do not notice."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.daemon.healing import HANGS_AFTER
from tests.e2e.test_healing import all_works, go_on, traffic
from tests.support import moved_clock
from tests.support.agent import GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import Network, wait_for
from tests.support.servers import ECHO, Servers

pytestmark = pytest.mark.e2e

HOUR = 3600.0
MAC = "5a:94:ef:00:00:07"
"""A guest without a static lease: those are not in the file."""
JUMPS = (-10 * HOUR, 24 * HOUR, -0.7, -30 * 24 * HOUR, 0.0)
"""Seconds that the clock is ahead, one after the other."""


class Clock:
    """The wall clock of the daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ahead = 0.0
        self.set(0.0)

    def set(self, ahead: float) -> None:
        """Move the clock."""
        self.ahead = ahead
        moved_clock.set_ahead(self.path, ahead)

    def now(self) -> float:
        """What it shows."""
        return time.time() + self.ahead


@pytest.fixture
def clock(network: Network) -> Clock:
    return Clock(network.directory / "clock")


@pytest.fixture
def state_file(network: Network) -> Path:
    return network.directory / "state.json"


@pytest.fixture
def daemon(network: Network, outside: Servers, clock: Clock, state_file: Path) -> Iterator[Daemon]:
    made = Daemon(network, "-state-file", str(state_file))
    made.command = [sys.executable, "-m", "tests.support.moved_clock", str(clock.path)]
    with made:
        made.expose("127.0.0.1:9001", f"{GUEST_ADDR}:{ECHO}")
        yield made


def test_guests_with_traffic_notice_no_jump(
    daemon: Daemon, agent: Agent, inside: Servers, network: Network, clock: Clock
) -> None:
    leases = daemon.api("/leases")
    with traffic(network) as echoes:
        for ahead in JUMPS:
            clock.set(ahead)
            assert len(go_on(echoes)) == len(echoes)
            all_works(daemon, network)
            assert daemon.api("/leases") == leases
    assert daemon.events("worker died") == []


def test_a_clock_that_is_set_back_lets_no_worker_oversleep(daemon: Daemon, clock: Clock) -> None:
    """Demux and tcp sleep on semaphores, and have nothing to do. They looked dead after ten seconds."""
    before = daemon.processes()
    for ahead in (-10 * HOUR, -20 * HOUR):
        clock.set(ahead)
        breaths = daemon.gauge("worker_breaths")
        wait_for(
            lambda breaths=breaths: all(
                daemon.gauge("worker_breaths")[name] > breaths[name] for name in ("demux", "tcp0")
            ),
            "breaths",
            HANGS_AFTER / 2,
        )
    time.sleep(HANGS_AFTER + 2.5)
    assert daemon.processes() == before
    assert daemon.events("worker does not breathe") == []


def test_leases_in_the_state_file_go_by_the_clock_of_the_day(
    daemon: Daemon, network: Network, clock: Clock, state_file: Path
) -> None:
    def left() -> float | None:
        """Seconds until the guest's lease ends, by the file and the clock."""
        if not state_file.exists():
            return None
        leases = json.loads(state_file.read_text())["leases"]
        return float(leases[0]["expires"]) - clock.now() if leases else None

    with Agent(network.guest, daemon.socket, mac=MAC):
        first = wait_for(left, "the state file")
        clock.set(-5 * HOUR)
        state_file.unlink()
    # The same guest comes back, and gets the same lease. Its date is of the clock as it is now.
    with Agent(network.guest, daemon.socket, mac=MAC):
        again = wait_for(left, "the state file")
    assert abs(first - again) < 60
    # The date of lines is that of the clock, too.
    assert daemon.log()[-1]["time"] < daemon.log()[0]["time"]
