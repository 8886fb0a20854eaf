"""Flows that end, as the flow log and the subscribers of /events see them, with real guests."""

import contextlib
import json
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, GUEST_MAC, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, SECOND_ADDR, Network, wait_for
from tests.support.servers import DATA, DNS, ECHO, LATE, RESET, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

NAME = "www.example.test"
POLICY = f"""
egress-policy:
  rules:
    - {{action: allow, networks: [{SECOND_ADDR}], ports: [{ECHO}]}}
    - {{action: deny, networks: [{SECOND_ADDR}]}}
"""
NOBODY = 9


class Log:
    """The flow log of a daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """The lines about flows. A policy adds those about questions."""
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [line for line in found if line["kind"] != "question-answered"]

    def one(self, kind: str, **fields: object) -> dict[str, Any]:
        """The only line of this kind with these fields."""

        def found() -> list[dict[str, Any]]:
            wanted = {"kind": kind, **fields}
            return [line for line in self.lines() if wanted.items() <= line.items()]

        (line,) = wait_for(found, f"a line {kind} with {fields} in\n{self.path.read_text()}")
        return line


@pytest.fixture
def log(network: Network) -> Iterator[Log]:
    path = network.directory / "flows.log"
    yield Log(path)
    path.unlink(missing_ok=True)


@pytest.fixture
def daemon(network: Network, outside: Servers, log: Log) -> Iterator[Daemon]:
    config = network.directory / "flows.yaml"
    config.write_text(f"flow-log: {log.path}\n{POLICY}")
    with Daemon(network, "-config", str(config)) as made:
        yield made


def test_a_download_has_its_name_bytes_and_end(daemon: Daemon, agent: Agent, log: Log) -> None:
    agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
    size = 1 << 20
    assert agent.run("transfer", INTERNET_ADDR, DATA, size, 1000)["errors"] == []
    line = log.one("flow-closed", port=DATA)
    expected = {
        "protocol": "tcp",
        "direction": "out",
        "guest_mac": GUEST_MAC,
        "guest_address": GUEST_ADDR,
        "address": INTERNET_ADDR,
        "name": NAME,
        "reason": "fin",
        "errno": None,
        "worker": "tcp0",
    }
    assert {key: line[key] for key in expected} == expected
    assert line["ended_by"] in ("guest", "host")
    # The transfer has a head and a digest of its own.
    assert size <= line["bytes_to_guest"] <= size + 1000
    assert 1000 <= line["bytes_from_guest"] <= 2000
    assert line["packets_to_guest"] >= size // 65536
    assert 0 < line["connect_seconds"] <= line["duration_seconds"] < 60
    assert line["id"].startswith("tcp0-")
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    # The question itself was a service of the gateway, and no flow.
    assert [each["kind"] for each in log.lines()] == ["flow-closed"]


def test_who_ended_a_connection_and_why(daemon: Daemon, agent: Agent, log: Log) -> None:
    with agent.guest.connect(INTERNET_ADDR, LATE) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"late 0"
        assert sock.recv(1) == b""
    assert log.one("flow-closed", port=LATE)["ended_by"] == "guest"
    with agent.guest.connect(INTERNET_ADDR, RESET) as sock, contextlib.suppress(ConnectionResetError):
        sock.sendall(b"x")
        sock.recv(1)
    line = log.one("flow-closed", port=RESET)
    assert (line["ended_by"], line["reason"]) == ("host", "reset")
    with agent.guest.connect(INTERNET_ADDR, ECHO) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line = log.one("flow-closed", port=ECHO)
    assert (line["ended_by"], line["reason"], line["bytes_from_guest"]) == ("guest", "reset", 1)


def test_what_fails_has_an_errno_and_what_is_refused_has_a_rule(
    daemon: Daemon, agent: Agent, log: Log
) -> None:
    assert agent.run("connect", INTERNET_ADDR, NOBODY)["errno"] == "ECONNREFUSED"
    line = log.one("flow-failed", port=NOBODY)
    assert (line["errno"], line["ended_by"], line["reason"]) == ("ECONNREFUSED", "host", "error")
    assert line["connect_seconds"] is None
    assert agent.run("connect", SECOND_ADDR, DATA)["errno"]
    line = log.one("flow-refused", address=SECOND_ADDR, port=DATA)
    assert (line["rule"], line["limit"], line["reason"]) == ("egress-policy.rules[1]", None, "policy")
    assert line["guest_mac"] == GUEST_MAC
    assert agent.run("connect", GATEWAY_ADDR, NOBODY)["errno"]
    assert log.one("flow-refused", address=GATEWAY_ADDR)["rule"] == "nat_flow_refused_gateway_port"
    with agent.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.sendto(b"x", (SECOND_ADDR, UDP_ECHO))
        assert log.one("flow-refused", protocol="udp")["rule"] == "egress-policy.rules[1]"
    assert {line["kind"] for line in log.lines()} == {"flow-failed", "flow-refused"}


def test_a_udp_flow_and_a_forward_end_in_the_log(
    daemon: Daemon, agent: Agent, inside: Servers, network: Network, log: Log
) -> None:
    answer = agent.run("resolve", INTERNET_ADDR, NAME, "A", "udp")
    assert answer["answers"] == [INTERNET_ADDR]
    line = log.one("flow-closed", protocol="udp", port=DNS)
    assert (line["packets_from_guest"], line["packets_to_guest"], line["reason"]) == (1, 1, "fin")
    daemon.expose("127.0.0.1:9001", f"{GUEST_ADDR}:{ECHO}")
    with network.host.connect("127.0.0.1", 9001) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    line = log.one("flow-closed", direction="in")
    assert (line["ended_by"], line["bytes_to_guest"], line["address"]) == ("host", 5, "127.0.0.1")
    daemon.expose("127.0.0.1:9002", f"{GUEST_ADDR}:{NOBODY}")
    with network.host.connect("127.0.0.1", 9002) as sock:
        sock.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    line = log.one("flow-failed", direction="in")
    assert (line["ended_by"], line["errno"]) == ("guest", "ECONNREFUSED")


def test_sigusr1_reopens_the_flow_log(daemon: Daemon, agent: Agent, log: Log) -> None:
    agent.run("connect", INTERNET_ADDR, NOBODY)
    log.one("flow-failed")
    moved = log.path.rename(log.path.with_suffix(".old"))
    daemon.process.send_signal(signal.SIGUSR1)
    wait_for(log.path.exists, "the new file")
    agent.run("connect", INTERNET_ADDR, NOBODY)
    log.one("flow-failed")
    assert len(Log(moved).lines()) == 1


def test_a_subscriber_hears_of_a_flow_from_its_begin_to_its_end(network: Network, outside: Servers) -> None:
    with Daemon(network) as daemon, Agent(network.guest, daemon.socket) as agent:
        agent.run("resolve", GATEWAY_ADDR, NAME, "A", "tcp")
        agent.run("connect", INTERNET_ADDR, ECHO)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(daemon.socket))
            client.sendall(b"GET /events?kinds=flow-opened,flow-closed HTTP/1.1\r\nHost: x\r\n\r\n")
            stream = client.makefile("rb")
            while stream.readline() != b":\n":
                pass
            with agent.guest.connect(INTERNET_ADDR, ECHO) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"
            found: list[dict[str, Any]] = []
            while len(found) < 2:
                line = stream.readline()
                if line.startswith(b"data: "):
                    found.append(json.loads(line[6:]))
        opened, closed = found
        assert (opened["kind"], opened["state"], opened["name"]) == ("flow-opened", "established", NAME)
        assert (closed["kind"], closed["ended_by"], closed["reason"]) == ("flow-closed", "guest", "fin")
        assert opened["id"] == closed["id"]
        assert "ended_by" not in opened
        # Nobody wants them any more, and level info has none of them.
        agent.run("connect", INTERNET_ADDR, ECHO)
        assert not [line for line in daemon.log() if str(line.get("kind")).startswith("flow-")]


def test_level_debug_has_a_line_for_each_flow(network: Network, outside: Servers) -> None:
    with Daemon(network, "-debug") as daemon, Agent(network.guest, daemon.socket) as agent:
        agent.run("connect", INTERNET_ADDR, ECHO)
        agent.run("connect", INTERNET_ADDR, NOBODY)
        (opened,) = wait_for(lambda: daemon.events("flow opened"), "a line")
        (closed,) = wait_for(lambda: daemon.events("flow closed"), "a line")
        (failed,) = wait_for(lambda: daemon.events("flow failed"), "a line")
        assert (opened["kind"], opened["worker"], opened["level"]) == ("flow-opened", "tcp0", "debug")
        assert closed["guest_mac"] == failed["guest_mac"] == GUEST_MAC
        assert failed["errno"] == "ECONNREFUSED"
