"""Each kind of worker is killed twenty times under traffic both ways, and then all in turns for minutes.

Deaths are far enough apart that the daemon does not give up. Memory, descriptors and slots must be flat.
"""

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.test_healing import CONNECTIONS, FLAGS, Echo, all_works, go_on, kill, traffic
from tests.support.agent import GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import Network
from tests.support.servers import ECHO, Servers

pytestmark = [pytest.mark.e2e, pytest.mark.stress]

TIMES = int(os.environ.get("HEAL_TIMES", "20"))
SECONDS = float(os.environ.get("HEAL_SECONDS", "600"))
APART = 15.5
"""Seconds from one death to the next: four in a minute."""
EVERY = 20.0


def memory_kb(pid: int) -> int:
    """What a process has for itself (PSS)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def outlive(
    name: str, daemon: Daemon, agent: Agent, network: Network, echoes: list[Echo], seconds: float
) -> None:
    """Kill a worker. All must work then. Connections that ended begin anew. It takes at least ``seconds``."""
    began = time.monotonic()
    kill(daemon, name)
    agent.wait_for_address()
    all_works(daemon, network)
    left = set(go_on(echoes))
    for number, echo in enumerate(echoes):
        if echo not in left:
            echo.stop()
            echoes[number] = Echo(network, number)
    time.sleep(max(0.0, began + seconds - time.monotonic()))


@pytest.mark.parametrize("name", ["ingress", "demux", "tcp0", "egress0", "resolver", "listen"])
def test_a_worker_is_killed_many_times(network: Network, outside: Servers, name: str) -> None:
    with Daemon(network, *FLAGS) as daemon, Agent(network.guest, daemon.socket) as agent:
        daemon.expect_errors = True
        daemon.expose("127.0.0.1:9001", f"{GUEST_ADDR}:{ECHO}")
        with closing(Servers(agent.guest, network.directory)), traffic(network) as echoes:
            for _ in range(TIMES):
                outlive(name, daemon, agent, network, echoes, APART)


def test_memory_and_descriptors_are_flat_while_workers_die_in_turns(
    network: Network, outside: Servers
) -> None:
    with Daemon(network, *FLAGS) as daemon, Agent(network.guest, daemon.socket) as agent:
        daemon.expect_errors = True
        daemon.expose("127.0.0.1:9001", f"{GUEST_ADDR}:{ECHO}")
        names = list(daemon.processes())
        until = time.monotonic() + SECONDS
        seen: list[tuple[int, int]] = []
        with closing(Servers(agent.guest, network.directory)), traffic(network) as echoes:
            while time.monotonic() < until:
                for name in names:
                    outlive(name, daemon, agent, network, echoes, EVERY)
                pids = [daemon.process.pid, *daemon.processes().values()]
                seen.append((sum(map(memory_kb, pids)), sum(map(descriptors, pids))))
    assert len(seen) > 1, "too short"
    (first_kb, first_files), (last_kb, last_files) = seen[0], seen[-1]
    assert last_kb < first_kb * 1.1 + 4096, seen
    assert last_files <= first_files + CONNECTIONS, seen
