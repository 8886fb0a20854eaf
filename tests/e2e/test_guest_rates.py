"""Rates of bytes: a guest gets and sends no more, loses nothing, and SIGHUP changes the rate."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

RATE = 1_000_000
BYTES = 2_500_000
RATES = f"limits: {{max-bytes-from-guest-per-second: {RATE}, max-bytes-to-guest-per-second: {RATE}}}"


@pytest.fixture
def path(network: Network) -> Path:
    return network.directory / "rates.yaml"


@pytest.fixture(params=[1, 2])
def daemon(
    request: pytest.FixtureRequest, network: Network, outside: Servers, path: Path
) -> Iterator[Daemon]:
    path.write_text(RATES)
    with Daemon(network, "-config", str(path), "-egress-workers", str(request.param)) as made:
        yield made


def seconds(agent: Agent, down: int, up: int) -> float:
    done = agent.run("transfer", INTERNET_ADDR, DATA, down, up, 4)
    assert done["errors"] == []
    return float(done["seconds"])


def test_a_guest_gets_and_sends_no_more_than_its_rates(daemon: Daemon, agent: Agent, path: Path) -> None:
    # A tenth of a second's bytes come at once, and what was read of them is in the guest's buffers.
    least = (4 * BYTES - 4 * 300_000) / RATE / 2
    assert seconds(agent, BYTES, 0) > least
    assert seconds(agent, 0, BYTES) > least
    assert sum(daemon.gauge("egress_reads_paused_byte_rate").values()) > 0
    assert daemon.gauge("link_reads_paused_byte_rate")["ingress"] > 0
    assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
    path.write_text("limits: {}")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.events("configuration reloaded"), "the reload", 30)
    assert seconds(agent, BYTES, BYTES) < least


def test_datagrams_wait_for_the_rate_too(daemon: Daemon, agent: Agent) -> None:
    found = agent.run("udp", INTERNET_ADDR, UDP_ECHO, 1400, 200)
    assert found["received"] == found["sent"] == 200
