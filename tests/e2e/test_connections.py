"""How single connections begin and end, seen from a guest with a real kernel's TCP."""

import contextlib
import errno
import select
import socket
import subprocess
import sys

import pytest

from tests.support.agent import HOST_ADDR, Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import BLACK_HOLE_ADDR, INTERNET_ADDR, METADATA_ADDR, Network
from tests.support.servers import (
    DATA,
    DISCARD,
    EARLY,
    HTTP,
    LATE,
    RESET,
    SLOW,
    STUCK,
    UDP_ECHO,
    Servers,
)

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]

MIB = 1 << 20
CLOSED_PORT = 9


def test_a_half_close_of_the_guest_leaves_the_way_back_open(agent: Agent) -> None:
    outcome = agent.run("late", INTERNET_ADDR, LATE, MIB)
    assert outcome == {"answer": f"late {MIB}"}


def test_a_half_close_of_the_host_leaves_the_way_up_open(agent: Agent, outside: Servers) -> None:
    outcome = agent.run("early", INTERNET_ADDR, EARLY, MIB)
    assert outcome["answer"] == "early"
    report = outside.next_report("early")
    assert (report["received"], report["sha256"]) == (MIB, outcome["sha256"])


def test_a_refused_port_is_refused_at_once(agent: Agent) -> None:
    outcome = agent.run("connect", INTERNET_ADDR, CLOSED_PORT)
    assert outcome["errno"] == "ECONNREFUSED"
    assert outcome["seconds"] < 1


def test_a_refused_port_of_the_host_itself_is_refused_at_once(agent: Agent) -> None:
    outcome = agent.run("connect", HOST_ADDR, CLOSED_PORT)
    assert outcome["errno"] == "ECONNREFUSED"
    assert outcome["seconds"] < 1


def test_a_reset_of_the_server_reaches_the_guest_as_reset(agent: Agent) -> None:
    assert agent.run("reset", INTERNET_ADDR, RESET) == {"errno": "ECONNRESET"}


def test_a_reset_of_the_guest_reaches_the_server_as_reset(agent: Agent, outside: Servers) -> None:
    agent.run("stop", INTERNET_ADDR, DISCARD)
    assert outside.next_report("discard") == {"server": "discard", "error": "Connection reset by peer"}


def test_a_server_that_does_not_read_stops_the_guest_and_loses_nothing(agent: Agent) -> None:
    size = 16 * MIB
    assert agent.run("late", INTERNET_ADDR, SLOW, size) == {"answer": f"late {size}"}


def test_destinations_that_never_answer_hold_up_nobody_else(agent: Agent) -> None:
    with contextlib.ExitStack() as attempts:
        socks = [attempts.enter_context(agent.guest.call(socket.socket)) for _ in range(12)]
        for port, sock in enumerate(socks, 20):
            sock.setblocking(False)
            assert sock.connect_ex((BLACK_HOLE_ADDR, port)) == errno.EINPROGRESS
        outcome = agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)
        assert outcome["errors"] == []
        assert outcome["seconds"] < 5
        assert select.select([], socks, [], 0)[1] == [], "the attempts are over"


@pytest.mark.parametrize("command, port", [("fill", STUCK), ("starve", DATA)])
def test_connections_whose_receiver_does_not_read_hold_up_nobody_else(
    agent: Agent, command: str, port: int
) -> None:
    words = (command, INTERNET_ADDR, str(port), "150")
    argv = (sys.executable, "-m", "tests.support.client", *words)
    stuck = agent.guest.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert stuck.stdout is not None
    assert stuck.stdin is not None
    assert stuck.stdout.readline()
    outcome = agent.run("transfer", INTERNET_ADDR, DATA, 4 * MIB, 4 * MIB, 4)
    assert outcome["errors"] == []
    assert outcome["seconds"] < 10
    stuck.stdin.close()
    stuck.wait(10)


def test_link_local_destinations_are_refused_by_default(agent: Agent) -> None:
    outcome = agent.run("connect", METADATA_ADDR, HTTP)
    assert outcome["errno"] == "ECONNREFUSED"
    assert outcome["seconds"] < 1
    assert agent.run("udp", METADATA_ADDR, UDP_ECHO, 10, 1)["received"] == 0


def test_link_local_destinations_can_be_allowed(network: Network, outside: Servers) -> None:
    with (
        Daemon(network, "-ec2-metadata-access", name="own") as daemon,
        Agent(network.guests[1], daemon.socket) as agent,
    ):
        assert agent.run("fetch", METADATA_ADDR, HTTP)["status"] == 200


def test_the_host_address_leads_to_the_hosts_loopback(agent: Agent, network: Network) -> None:
    on_host = Servers(network.host, network.directory, "127.0.0.1")
    try:
        assert agent.run("transfer", HOST_ADDR, DATA, MIB, MIB)["errors"] == []
        assert agent.run("udp", HOST_ADDR, UDP_ECHO, 500, 5)["received"] == 5
    finally:
        on_host.close()


@pytest.mark.parametrize("size", [0, 1, 1400, 8000, 60000])
def test_datagrams_come_back_whole(agent: Agent, size: int) -> None:
    outcome = agent.run("udp", INTERNET_ADDR, UDP_ECHO, size, 5)
    assert outcome["received"] == 5


def test_connections_one_after_the_other_leave_nothing_behind(agent: Agent) -> None:
    for _ in range(3):
        assert agent.run("transfer", INTERNET_ADDR, DATA, 1000, 1000, 100)["errors"] == []


def test_the_page_is_the_same_as_without_the_daemon(agent: Agent, network: Network) -> None:
    direct = run_client(network.host, "fetch", INTERNET_ADDR, HTTP)
    assert agent.run("fetch", INTERNET_ADDR, HTTP) == direct
    assert direct["status"] == 200
