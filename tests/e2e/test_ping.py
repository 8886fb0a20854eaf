"""Pings of guests to the world outside: forwarded where the host allows ICMP sockets, silent where not."""

import errno
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.agent import GATEWAY_ADDR, HOST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import BLACK_HOLE_ADDR, INTERNET_ADDR, SECOND_ADDR, Network
from tests.support.servers import DNS, ECHO

pytestmark = pytest.mark.e2e

RANGE = "net.ipv4.ping_group_range"


@pytest.fixture
def permitted(network: Network) -> Iterator[None]:
    network.host.run("sysctl", "-q", "-w", f"{RANGE}=0 2147483647")
    yield
    network.host.run("sysctl", "-q", "-w", f"{RANGE}=1 0")


def ping(agent: Agent, address: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return agent.guest.run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", *words, address, check=False)


@pytest.mark.parametrize("size", [0, 56, 20000])
def test_an_address_outside_answers_from_itself(
    permitted: None, daemon: Daemon, agent: Agent, size: int
) -> None:
    done = ping(agent, INTERNET_ADDR, "-s", str(size))
    assert " 3 received, 0% packet loss" in done.stdout, done.stdout
    if size:
        assert f"bytes from {INTERNET_ADDR}: icmp_seq=2 ttl=" in done.stdout
    assert daemon.gauge("icmp_echo_replied")["egress0"] == 3


def test_two_pingers_of_one_address_get_their_own_answers(
    permitted: None, daemon: Daemon, agent: Agent
) -> None:
    argv = agent.guest.command(["ping", "-n", "-c", "10", "-i", "0.05", SECOND_ADDR])
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for pinger in both:
        out, _ = pinger.communicate(timeout=20)
        assert " 10 received, 0% packet loss" in out
        assert "DUP" not in out


def test_the_address_for_the_host_answers(permitted: None, daemon: Daemon, agent: Agent) -> None:
    done = ping(agent, HOST_ADDR)
    assert f"from {HOST_ADDR}: icmp_seq=1" in done.stdout


def test_a_dead_host_does_not_answer(permitted: None, daemon: Daemon, agent: Agent) -> None:
    done = ping(agent, BLACK_HOLE_ADDR)
    assert done.returncode == 1
    assert " 0 received" in done.stdout
    assert "errors" not in done.stdout
    dead_neighbor = "198.18.0.77"
    assert " 0 received" in ping(agent, dead_neighbor, "-w", "4").stdout


def test_time_exceeded_comes_from_who_sent_it(permitted: None, daemon: Daemon, agent: Agent) -> None:
    done = ping(agent, BLACK_HOLE_ADDR, "-t", "1", "-c", "1")
    assert f"From {GATEWAY_ADDR} icmp_seq=1 Time to live exceeded" in done.stdout
    internet = daemon.network.internet
    internet.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    internet.ip("route", "add", "198.18.98.0/24", "dev", "veth0")
    done = ping(agent, "198.18.98.1", "-t", "2", "-c", "1")
    assert f"From {INTERNET_ADDR} icmp_seq=1 Time to live exceeded" in done.stdout


def test_a_datagram_without_a_hop_left_is_told_the_gateway(agent: Agent) -> None:
    code = (
        "import socket\n"
        "sock = socket.socket(type=socket.SOCK_DGRAM)\n"
        "sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)\n"
        "sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR\n"
        "sock.settimeout(5)\n"
        f"sock.connect(('{INTERNET_ADDR}', 33434))\n"
        "sock.send(b'x')\n"
        "try:\n    sock.recv(1)\nexcept OSError as error:\n    print(error.errno)\n"
        "_, ancillary, _, _ = sock.recvmsg(100, 100, socket.MSG_ERRQUEUE)\n"
        "value = ancillary[0][2]\n"
        "print(value[5], value[6], socket.inet_ntoa(value[20:24]))\n"
    )
    done = agent.guest.run(sys.executable, "-c", code)
    assert done.stdout.split() == [str(errno.EHOSTUNREACH), "11", "0", GATEWAY_ADDR]


def connect_with_ttl(agent: Agent, ttl: int, addr: str = INTERNET_ADDR, port: int = ECHO) -> str:
    """What comes of a SYN with that TTL: "connected", or the errno and who said so."""
    code = (
        "import socket\n"
        "sock = socket.socket()\n"
        f"sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, {ttl})\n"
        "sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR\n"
        "sock.settimeout(10)\n"
        f"print(sock.connect_ex(('{addr}', {port})) or 'connected')\n"
        "sock.setblocking(False)\n"
        "try:\n    value = sock.recvmsg(100, 100, socket.MSG_ERRQUEUE)[1][0][2]\n"
        "except BlockingIOError:\n    raise SystemExit\n"
        "print(value[5], value[6], socket.inet_ntoa(value[20:24]))\n"
    )
    return " ".join(agent.guest.run(sys.executable, "-c", code).stdout.split())


@pytest.mark.parametrize("flags", [(), ("-offload=false",)], ids=["offload", "plain"])
def test_the_gateway_is_the_first_hop_of_a_trace_by_tcp(daemon: Daemon, flags: tuple[str, ...]) -> None:
    with Agent(daemon.network.guest, daemon.socket, *flags) as agent:
        assert connect_with_ttl(agent, 1) == f"{errno.EHOSTUNREACH} 11 0 {GATEWAY_ADDR}"
        assert connect_with_ttl(agent, 2) == "connected"
        assert daemon.gauge("ipv4_packet_dropped_ttl_exceeded")["demux"] >= 1
        # The gateway's own services are no hop further.
        assert connect_with_ttl(agent, 1, GATEWAY_ADDR, DNS) == "connected"


def test_a_ping_too_big_for_the_hosts_path_is_answered_with_its_mtu(
    permitted: None, daemon: Daemon, agent: Agent
) -> None:
    ends = (daemon.network.host, daemon.network.internet)
    for end in ends:
        end.ip("link", "set", "veth0", "mtu", "1300")
    try:
        done = ping(agent, INTERNET_ADDR, "-M", "do", "-s", "1400", "-c", "1")
        assert re.search(r"[Ff]rag needed.*mtu ?= ?1300", done.stdout), done.stdout
        # Without the bit the host cuts it.
        assert " 1 received" in ping(agent, INTERNET_ADDR, "-M", "dont", "-s", "1400", "-c", "1").stdout
    finally:
        for end in ends:
            end.ip("link", "set", "veth0", "mtu", "1500")


def test_a_host_that_allows_no_icmp_sockets_is_said_once_and_counted(daemon: Daemon, agent: Agent) -> None:
    assert " 0 received" in ping(agent, INTERNET_ADDR).stdout
    lines = [line for line in daemon.log() if line["event"].startswith("pings of guests are not forwarded")]
    assert [line["setting"] for line in lines] == [RANGE]
    assert daemon.gauge("icmp_echo_dropped_not_permitted")["egress0"] == 3
    # What the gateway is itself needs nobody's permission.
    assert " 3 received" in ping(agent, HOST_ADDR).stdout
