"""A whole session of a guest: what the log says of it at -debug, and what a subscriber of /events gets."""

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.events.table import KINDS, PUBLISHED
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, GUEST_MAC, HOST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import Servers

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]

SESSION = ["guest-connected", "lease-given", "question-answered", "guest-gone"]


class Reader:
    """A client of /events, in a thread. It reads until the daemon ends."""

    def __init__(self, path: Path, query: str = "") -> None:
        self.events: list[dict[str, Any]] = []
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(30)
        self._sock.connect(str(path))
        self._sock.sendall(f"GET /events{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self._file = self._sock.makefile("rb")
        while self._file.readline() != b":\n":
            pass
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._file:
            if line.startswith(b"data: "):
                self.events.append(json.loads(line.removeprefix(b"data: ")))

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    def close(self) -> None:
        """The daemon has closed the connection."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._file.close()
        self._sock.close()


def lines(daemon: Daemon, kind: str) -> list[dict[str, Any]]:
    """The lines of the log of this kind."""
    return [line for line in daemon.log() if line.get("kind") == kind]


def session(network: Network, daemon: Daemon) -> None:
    """A guest comes, gets an address, asks for two names, one of them twice, and leaves."""
    with Agent(network.guest, daemon.socket) as agent:
        for name in ("www.example.test", "www.example.test", "host.containers.internal"):
            agent.run("resolve", GATEWAY_ADDR, name, "A", "udp")
        agent.run("resolve", GATEWAY_ADDR, "nowhere.example.test", "A", "tcp")
    wait_for(lambda: lines(daemon, "guest-gone"), "the guest's end", 10)


def test_a_session_at_debug_is_in_the_log(network: Network, outside: Servers) -> None:
    with Daemon(network, "-debug", name="own") as daemon:
        session(network, daemon)
        order = [line["kind"] for line in daemon.log() if line.get("kind") in SESSION]
        assert list(dict.fromkeys(order)) == SESSION
        (connected,) = lines(daemon, "guest-connected")
        (lease,) = lines(daemon, "lease-given")
        (gone,) = lines(daemon, "guest-gone")
        assert (connected["level"], lease["level"], gone["level"]) == ("info", "info", "info")
        assert (lease["mac"], lease["address"], lease["seconds"]) == (GUEST_MAC, GUEST_ADDR, 3600)
        assert connected["guest"] == lease["guest"] == gone["guest"]
        assert connected["link"] == lease["link"] == gone["link"]
        asked = [line for line in lines(daemon, "question-answered") if line["type"] == "A"]
        found = [(line["name"], line["rcode"], line["addresses"], line["source"]) for line in asked]
        assert found == [
            ("www.example.test", "NOERROR", [INTERNET_ADDR], "upstream"),
            ("www.example.test", "NOERROR", [INTERNET_ADDR], "cache"),
            ("host.containers.internal", "NOERROR", [HOST_ADDR], "zone"),
            ("nowhere.example.test", "NXDOMAIN", [], "upstream"),
        ]
        assert [line["transport"] for line in asked] == ["udp", "udp", "udp", "tcp"]
        assert {line["guest_address"] for line in asked} == {GUEST_ADDR}
        assert {line["guest"] for line in asked} == {lease["guest"]}
        assert 0 < asked[0]["seconds"] < 5
        assert all(line["kind"] in KINDS for line in daemon.log())


def test_without_debug_a_subscriber_gets_what_the_log_leaves_out(network: Network, outside: Servers) -> None:
    with Daemon(network, name="own") as daemon:
        everything = Reader(daemon.socket)
        leases = Reader(daemon.socket, "?kinds=lease-given")
        session(network, daemon)
        daemon.expose("127.0.0.1:9011", f"{GUEST_ADDR}:80")
        wait_for(lambda: "forward-opened" in everything.kinds(), "the forward", 10)
        order = [kind for kind in everything.kinds() if kind in SESSION]
        assert list(dict.fromkeys(order)) == SESSION
        assert set(everything.kinds()) <= PUBLISHED
        names = {event["name"] for event in everything.of("question-answered")}
        assert {"www.example.test", "host.containers.internal"} <= names
        assert lines(daemon, "question-answered") == []
        wait_for(lambda: leases.kinds() == ["lease-given"], "the lease alone", 10)
        assert not [event for event in everything.events if "lost" in event]
        (lease,) = leases.events
        (line,) = lines(daemon, "lease-given")
        assert {key: line[key] for key in KINDS["lease-given"].fields} == {
            key: lease[key] for key in KINDS["lease-given"].fields
        }
    everything.close()
    leases.close()


def test_a_forward_that_does_not_reach_its_guest_is_reported(network: Network) -> None:
    with Daemon(network, "-debug", name="own") as daemon:
        daemon.expose("127.0.0.1:9009", "192.168.127.77:80")
        network.host.run("curl", "-s", "--max-time", "20", "http://127.0.0.1:9009/", check=False)
        wait_for(lambda: lines(daemon, "forward-unreachable"), "the event", 15)
        (line,) = lines(daemon, "forward-unreachable")
        assert (line["address"], line["port"]) == ("192.168.127.77", 80)
        assert line["reason"] == "no guest has this address"
        with Agent(network.guest, daemon.socket):
            daemon.expose("127.0.0.1:9010", f"{GUEST_ADDR}:81")
            network.host.run("curl", "-s", "--max-time", "20", "http://127.0.0.1:9010/", check=False)
            wait_for(lambda: len(lines(daemon, "forward-unreachable")) == 2, "the second event", 15)
        assert lines(daemon, "forward-unreachable")[1]["reason"] == "the guest refused the connection"
