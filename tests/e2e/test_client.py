"""The commands that ask a running daemon, and forwards as flags, with a guest behind them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.agent import GUEST_ADDR, GUEST_MAC, Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import Network
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

LOCAL = "127.0.0.1"
MIB = 1 << 20


class Client:
    """Runs commands in the daemon's namespace."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def run(self, *words: str, status: int = 0) -> tuple[str, str]:
        """What a command prints on both outputs. Its exit code must be ``status``."""
        argv = [*self.daemon.command, *words, "-api", f"unix://{self.daemon.socket}"]
        done = self.daemon.namespace.run(*argv, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout, done.stderr

    def json(self, *words: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(*words, "-json")[0])


@pytest.fixture(scope="module")
def client(network: Network, outside: Servers) -> Iterator[Client]:
    flags = ("-forward", f"9100:{DATA}", "-forward", f"0:{GUEST_ADDR}:{UDP_ECHO}/udp", "-placement", "auto")
    with Daemon(network, *flags, name="asked") as daemon:
        yield Client(daemon)


@pytest.fixture(scope="module")
def guest(client: Client, network: Network) -> Iterator[Agent]:
    with Agent(network.guests[0], client.daemon.socket) as agent:
        servers = Servers(agent.guest, network.directory)
        yield agent
        servers.close()


def test_forwards_of_flags_serve_and_the_chosen_port_is_reported(client: Client, guest: Agent) -> None:
    host = client.daemon.network.host
    assert run_client(host, "transfer", LOCAL, 9100, MIB, MIB)["errors"] == []
    tcp, udp = sorted(client.json("status")["forwards"], key=lambda forward: forward["protocol"])
    assert tcp == {"local": f"{LOCAL}:9100", "remote": f"{GUEST_ADDR}:{DATA}", "protocol": "tcp"}
    port = int(udp["local"].removeprefix(f"{LOCAL}:"))
    assert port > 0
    assert run_client(host, "udp", LOCAL, port, 100, 3)["received"] == 3
    opened = client.daemon.events("forward opened")
    assert [line["local"] for line in opened[:2]] == [tcp["local"], udp["local"]]


def test_expose_and_unexpose_open_and_close_ports(client: Client, guest: Agent) -> None:
    host = client.daemon.network.host
    (opened,) = client.json("expose", f"0:{DATA}")
    port = int(opened["local"].removeprefix(f"{LOCAL}:"))
    assert run_client(host, "transfer", LOCAL, port, MIB, MIB)["errors"] == []
    text, _ = client.run("expose", "9200-9201:80-81")
    assert text.splitlines() == [f"{LOCAL}:{9200 + n} -> {GUEST_ADDR}:{80 + n} tcp" for n in (0, 1)]
    _, error = client.run("expose", "9199-9202:80-83", status=1)
    assert error == (
        f"gvtap-pipeline expose: tcp {LOCAL}:9200 to {GUEST_ADDR}:81: "
        f"proxy already running for tcp on {LOCAL}:9200\n"
    )
    listed = {forward["local"] for forward in client.json("status")["forwards"]}
    assert f"{LOCAL}:9199" not in listed, "all or none"
    client.run("unexpose", str(port), "9200-9201:80-81")
    assert run_client(host, "connect", LOCAL, port)["errno"] == "ECONNREFUSED"
    _, error = client.run("unexpose", str(port), status=1)
    assert error.startswith(f"gvtap-pipeline unexpose: tcp {LOCAL}:{port}: proxy not found")


def test_the_lists_show_the_guest(client: Client, guest: Agent) -> None:
    (row,) = client.json("guests")
    assert (row["mac_addresses"], row["ip_addresses"], row["links"]) == ([GUEST_MAC], [GUEST_ADDR], 1)
    assert re.search(rf"^ +[0-9]+  {GUEST_ADDR} +{GUEST_MAC}  process ", client.run("guests")[0], re.M)
    assert re.search(rf"^{GUEST_ADDR} +{GUEST_MAC} +[0-9]+$", client.run("leases")[0], re.M)


def test_status_names_the_workers_and_their_processes(client: Client, guest: Agent) -> None:
    status = client.json("status")
    pids = set(client.daemon.workers().values())
    assert {worker["pid"] for worker in status["workers"]} == pids
    assert {worker["worker"] for worker in status["workers"]} == set(client.daemon.layout.names)
    assert all(worker["answers"] for worker in status["workers"])
    assert (status["pid"], status["guests"], status["links"]) == (client.daemon.process.pid, 1, 1)
    assert status["bytes_from_guests"] > 0
    text, _ = client.run("status")
    assert f"listen  unix://{client.daemon.socket}" in text
