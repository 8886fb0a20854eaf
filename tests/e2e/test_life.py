"""The daemon's own life: start, rest, stop, and what a killed process leaves."""

import contextlib
import os
import signal
import socket
import threading
import time
from datetime import datetime

import pytest

from perf.processes import own_cpu_seconds
from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, new_shared_memory, shared_memory, wait_for
from tests.support.servers import DATA, DISCARD, Servers

pytestmark = pytest.mark.e2e

IDLE_SECONDS = 10.0
IDLE_SHARE = 0.002
START_CPU_SECONDS = 1.5
MIB = 1 << 20


def test_the_start_of_all_processes_takes_little_processor_time(network: Network) -> None:
    times = []
    for _ in range(3):
        with Daemon(network) as daemon:
            times.append(sum(daemon.cpu_seconds().values()))
    # Processor time, since a busy machine is slow. The least of three, since its caches are cold too.
    assert min(times) < START_CPU_SECONDS, times


def test_an_idle_daemon_and_an_idle_guest_use_no_cpu(daemon: Daemon, agent: Agent) -> None:
    agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB, 10)
    time.sleep(3)
    before, agent_before = daemon.cpu_seconds(), own_cpu_seconds(agent.process.pid)
    time.sleep(IDLE_SECONDS)
    used = {name: value - before[name] for name, value in daemon.cpu_seconds().items()}
    used["agent"] = own_cpu_seconds(agent.process.pid) - agent_before
    busy = {name: value for name, value in used.items() if value > IDLE_SHARE * IDLE_SECONDS}
    assert not busy, used


def send_on(sock: socket.socket) -> None:
    """Send until the connection ends."""
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(bytes(MIB))


@pytest.mark.parametrize("placement", ["separate", "auto"])
def test_sigterm_stops_it_in_the_middle_of_transfers_which_do_not_look_whole(
    network: Network, outside: Servers, placement: str
) -> None:
    daemon = Daemon(network, "-placement", placement)
    daemon.start()
    agent = Agent(network.guest, daemon.socket)
    agent.start()
    agent.wait_for_address()
    sock = network.guest.connect(INTERNET_ADDR, DATA)
    sock.sendall(b'{"down": 1000000000, "up": 0, "seed": 1}\n')
    up = network.guest.connect(INTERNET_ADDR, DISCARD)
    sender = threading.Thread(target=send_on, args=(up,))
    sender.start()
    assert sock.recv(1000)
    # Workers that are busy hear of the end as those do that sleep.
    wait_for(lambda: daemon.gauge("egress_bytes_to_host")["egress0"] > 8 * MIB, "bytes for the host")
    workers = daemon.workers()
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 0
    assert time.monotonic() - began < 2
    daemon.check_remains(workers)
    assert not daemon.events("worker did not stop in time")
    assert "error" in outside.next_report("discard")
    agent.stop()
    for end in (up, sock):
        end.shutdown(socket.SHUT_RDWR)
        end.close()
    sender.join()


def test_sigint_stops_it_as_well(network: Network) -> None:
    daemon = Daemon(network)
    daemon.start()
    workers = daemon.workers()
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(3) == 0
    daemon.check_remains(workers)


def test_a_killed_supervisor_takes_its_workers_along_and_leaves_no_shared_memory(network: Network) -> None:
    daemon = Daemon(network)
    before = shared_memory()
    daemon.start()
    workers = daemon.workers()
    daemon.process.kill()
    daemon.process.wait(5)
    wait_for(
        lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers.values()), "the workers end", 5
    )
    assert not new_shared_memory(before)
    daemon.kill()


def test_a_guest_comes_back_by_itself_when_the_daemon_does(network: Network, outside: Servers) -> None:
    first = Daemon(network)
    first.start()
    agent = Agent(network.guest, first.socket)
    agent.start()
    agent.wait_for_address()
    first.stop()
    with Daemon(network):
        time.sleep(1.5)
        agent.wait_for_address()
        assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
        agent.stop()


def test_every_log_line_is_an_object_with_time_level_event_worker_and_pid(
    daemon: Daemon, agent: Agent
) -> None:
    agent.run("transfer", INTERNET_ADDR, DATA, 4 * MIB, 4 * MIB, 4)
    lines = daemon.log()
    assert lines
    for line in lines:
        assert {"time", "level", "event", "worker", "pid"} <= line.keys()
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
    # Tens of thousands of frames have passed by then.
    assert len(lines) < 200


def test_a_pid_file_holds_the_pid_without_newline_and_goes_away(network: Network) -> None:
    path = network.directory / "daemon.pid"
    with Daemon(network, "-pid-file", str(path)) as daemon:
        assert path.read_text() == str(daemon.process.pid)
    assert not path.exists()


def test_a_socket_that_exists_already_is_a_failure_with_status_1(network: Network) -> None:
    daemon = Daemon(network, name="taken")
    daemon.qemu_socket.touch()
    with pytest.raises(AssertionError, match="already exists"):
        daemon.start()
    assert daemon.process.wait(5) == 1
    daemon.qemu_socket.unlink()
