"""The system gives a worker no more memory: that costs flows, and neither the worker nor what it has."""

import errno
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.test_healing import datagrams, go_on, new_connection, traffic
from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
LEFT = 6 * MIB
"""Bytes that the worker may have more than now."""
MANY = 4000
REFUSALS = (
    *("tcp_syn_dropped_no_memory", "tcp_flow_evicted_half_open", "tcp_flow_evicted_over_share"),
    *("egress_flow_refused_no_memory", "egress_flow_evicted_too_many_sockets"),
)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def limit_memory(pid: int) -> None:
    """Let a process have LEFT more than now."""
    status = Path(f"/proc/{pid}/status").read_text()
    used = int(next(line for line in status.splitlines() if line.startswith("VmSize:")).split()[1]) << 10
    resource.prlimit(pid, resource.RLIMIT_AS, (used + LEFT, resource.RLIM_INFINITY))


def refused(daemon: Daemon) -> int:
    """Flows that were refused, or that others have replaced."""
    return sum(sum(daemon.gauge(name).values()) for name in REFUSALS)


@pytest.fixture
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    # Without CAP_SYS_RESOURCE only a process of the same user can be limited.
    with Daemon(network, "-sandbox", "off") as made:
        yield made


@pytest.mark.parametrize("name", ["tcp0", "egress0"])
def test_a_worker_without_further_memory_refuses_flows_and_keeps_what_it_has(
    daemon: Daemon, agent: Agent, network: Network, many_descriptors: None, name: str
) -> None:
    pid = daemon.processes()[name]
    with traffic(network) as echoes:
        limit_memory(pid)
        with ExitStack() as stack:

            def begin() -> None:
                for _ in range(50):
                    sock = stack.enter_context(socket.socket())
                    sock.setblocking(False)
                    assert sock.connect_ex((INTERNET_ADDR, ECHO)) == errno.EINPROGRESS

            for _ in range(MANY // 50):
                network.guest.call(begin)
                if refused(daemon):
                    break
            wait_for(lambda: refused(daemon) > 0, "flows are refused")
            assert len(go_on(echoes)) == len(echoes)
        # What the others had is there again.
        wait_for(lambda: len(go_on(echoes)) == len(echoes), "all go on")
        new_connection(network)
        datagrams(network)
    assert daemon.processes()[name] == pid
    assert daemon.events("worker died") == []
