"""-listen-connect: guests attach there, and nobody gets anything of the API."""

import http.client
import socket
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network
from tests.support.servers import ECHO, Servers

pytestmark = pytest.mark.e2e

PATHS = ("/", "/version", "/status", "/policy", "/services/forwarder/all", "/tunnel", "/capture", "/metrics")


def ask(path: Path, method: str, target: str) -> int:
    """The status of an answer."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        connection.request(method, target, "{}" if method == "POST" else None)
        return connection.getresponse().status
    finally:
        connection.close()


def test_guests_attach_and_find_nothing_else(network: Network, outside: Servers) -> None:
    path = network.directory / "guests.sock"
    with Daemon(network, "-listen-connect", f"unix://{path}") as daemon:
        assert path.stat().st_mode & 0o777 == 0o600
        with Agent(network.guest, path) as agent:
            assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
            for target in PATHS:
                for method in ("GET", "POST"):
                    assert ask(path, method, target) == 404, target
        assert daemon.api("/version")[0] == 200
    assert not path.exists()


def test_a_page_of_a_browser_cannot_attach(network: Network) -> None:
    with Daemon(network, "-listen-connect", "tcp://127.0.0.1:7070") as daemon:
        argv = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST")
        made = network.host.run(*argv, "-H", "Origin: http://a.example", "http://127.0.0.1:7070/connect")
        assert made.stdout == "403"
        assert network.host.run(*argv, "http://127.0.0.1:7070/policy").stdout == "404"
        assert daemon.gauge("api_request_refused_web_page")["supervisor"] == 1
