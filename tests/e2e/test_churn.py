"""Many forwards that come and go while traffic runs, and many connections to nowhere: nothing is left."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.agent import GUEST_ADDR, Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import BLACK_HOLE_ADDR, INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

SECONDS = float(os.environ.get("CHURN_SECONDS", "5"))
"""make stress runs it for longer."""
A_SECOND = 50
LOCAL = "127.0.0.1"
KINDS = ("tcp", "udp", "unix")


def open_files(daemon: Daemon) -> dict[str, int]:
    pids = {**daemon.workers(), "supervisor": daemon.process.pid}
    return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()}


def forward(directory: Path, index: int) -> dict[str, str]:
    kind = KINDS[index % len(KINDS)]
    if kind == "unix":
        remote = f"tcp://{GUEST_ADDR}:{ECHO}"
        return {"local": str(directory / f"churn{index}.sock"), "remote": remote, "protocol": kind}
    port = ECHO if kind == "tcp" else UDP_ECHO
    return {"local": f"{LOCAL}:{10000 + index}", "remote": f"{GUEST_ADDR}:{port}", "protocol": kind}


def test_fifty_forwards_a_second_come_and_go_while_traffic_runs(
    daemon: Daemon, network: Network, agent: Agent, inside: Servers
) -> None:
    daemon.expose(f"{LOCAL}:9000", f"{GUEST_ADDR}:{DATA}")
    run_client(network.host, "transfer", LOCAL, 9000, 1 << 20, 1 << 20)
    before = open_files(daemon)
    argv = [
        sys.executable,
        "-m",
        "tests.support.client",
        "transfer",
        LOCAL,
        "9000",
        str(8 << 20),
        str(8 << 20),
    ]
    traffic = [network.host.popen(argv, stdout=subprocess.PIPE)]
    began = time.monotonic()
    done = 0
    while (now := time.monotonic()) - began < SECONDS:
        if (now - began) * A_SECOND < done:
            time.sleep(0.005)
            continue
        wish = forward(network.directory, done % 500)
        daemon.expose(wish["local"], wish["remote"], wish["protocol"])
        if wish["protocol"] == "tcp" and done % 10 == 0:
            with network.host.connect(LOCAL, 10000 + done % 500) as sock:
                sock.sendall(b"hello")
                assert sock.recv(5) == b"hello"
        assert daemon.api("/services/forwarder/unexpose", wish) == (200, b"")
        done += 1
        if traffic[-1].poll() is not None and now - began < SECONDS - 2:
            traffic.append(network.host.popen(argv, stdout=subprocess.PIPE))
    for process in traffic:
        out, _ = process.communicate(timeout=60)
        assert json.loads(out)["errors"] == []
    assert done >= 50, "enough to show what one of them leaves behind"
    assert len(json.loads(daemon.api("/services/forwarder/all")[1])) == 1
    assert daemon.gauge("listen_forwards")["listen"] == 1
    assert not list(network.directory.glob("churn*.sock"))
    wait_for(lambda: open_files(daemon) == before, f"descriptors as before: {before}", 5, 0.1)
    # That no slot is missing is asserted when the daemon stops.


def test_a_thousand_connections_to_a_black_hole_do_not_delay_a_new_one(daemon: Daemon, agent: Agent) -> None:
    outcome = agent.run("beside", BLACK_HOLE_ADDR, 1000, INTERNET_ADDR, ECHO)
    assert outcome["pending"] == 1000
    assert outcome["errno"] == ""
    assert outcome["seconds"] < 1
    assert daemon.gauge("tcp_flows")["tcp0"] >= 1000
