"""Kernel guests over IPv6 to the host and beyond: TCP, UDP, pings, errors, and forwards in all mixes.

Tests with the fixtures ``daemon`` and ``agent`` share one daemon of each placement, and the first guest. The
others start their own daemon beside it, for the second guest.
"""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.wire import ip
from tests.e2e.test_ipv6 import ADDRESSES, ADDRS, CONFIG, MACS, PLACEMENTS, is_usable, ping, program
from tests.support import dual_stack
from tests.support.agent import Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import (
    INTERNET_ADDR,
    INTERNET_ADDR6,
    SECOND_ADDR,
    SECOND_ADDR6,
    Network,
    add_host_ipv6,
    wait_for,
)
from tests.support.servers import DATA, DISCARD, HTTP, PAGE, RESET, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
GIB = 1 << 30
GATEWAY, HOST = ip.text(ADDRESSES.gateway), ip.text(ADDRESSES.host)
CLOSED_PORT = 9
BLACK_HOLE = "2001:db8:99::99"
MIXED = "64:ff9b::"
"""The prefix under which guests reach IPv4 hosts."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two guests, and an internet with IPv6."""
    with dual_stack.network(2) as made:
        yield made


@pytest.fixture(scope="module")
def outside(network: Network) -> Iterator[Servers]:
    with dual_stack.servers(network) as servers:
        yield servers


def has_route(agent: Agent) -> bool:
    return "default via" in agent.guest.run("ip", "-6", "route").stdout


@contextlib.contextmanager
def guest_of(network: Network, *flags: str, number: int = 1) -> Iterator[tuple[Daemon, Agent]]:
    """A daemon, and a guest with an address and a default route over IPv6."""
    with (
        Daemon(network, "-ipv6", "auto", *flags, name=f"of{number}") as daemon,
        Agent(network.guests[number], daemon.socket, mac=MACS[number]) as agent,
    ):
        wait_for(lambda: is_usable(agent.guest, ADDRS[number]) and has_route(agent), "address and route")
        yield daemon, agent


@pytest.fixture(scope="module", params=PLACEMENTS)
def made(
    request: pytest.FixtureRequest, network: Network, outside: Servers
) -> Iterator[tuple[Daemon, Agent]]:
    with guest_of(network, "-placement", request.param, number=0) as made:
        yield made


@pytest.fixture
def daemon(made: tuple[Daemon, Agent]) -> Iterator[Daemon]:
    yield made[0]
    made[0].wait_for_free_slots()


@pytest.fixture
def agent(daemon: Daemon, made: tuple[Daemon, Agent]) -> Agent:
    return made[1]


# --- TCP and UDP ----------------------------------------------------------------------------------


def test_bytes_reach_the_internet_and_come_back_whole(agent: Agent) -> None:
    assert agent.run("transfer", INTERNET_ADDR6, DATA, 16 * MIB, 16 * MIB, 3)["errors"] == []
    assert agent.run("udp", INTERNET_ADDR6, UDP_ECHO, 1200, 20)["received"] == 20
    assert agent.run("burst", INTERNET_ADDR6, UDP_ECHO, "1200*20,7,1452*10", 3)["received"] == 93


@pytest.mark.stress
@pytest.mark.parametrize(("down", "up"), [(GIB, 0), (0, GIB)], ids=["down", "up"])
def test_a_gibibyte_arrives_with_its_hash(agent: Agent, down: int, up: int) -> None:
    outcome = agent.run("transfer", INTERNET_ADDR6, DATA, down, up, timeout=280)
    assert (outcome["errors"], outcome["good"]) == ([], 1)


def test_datagrams_longer_than_the_mtu_go_in_fragments_both_ways(daemon: Daemon, agent: Agent) -> None:
    assert agent.run("udp", INTERNET_ADDR6, UDP_ECHO, 9000, 5)["received"] == 5
    assert daemon.gauge("ipv6_fragments_sent")["demux"] + daemon.gauge("ipv6_fragments_sent")["ingress"] >= 35


def test_a_page_comes_over_ipv6_alone(agent: Agent) -> None:
    got = agent.guest.run(program("curl"), "-6", "-s", "-g", f"http://[{INTERNET_ADDR6}]:{HTTP}/").stdout
    assert got.encode() == PAGE


def test_the_host_address_leads_to_the_hosts_own_loopback(agent: Agent, network: Network) -> None:
    on_host = Servers(network.host, network.directory, "::1")
    try:
        assert agent.run("transfer", HOST, DATA, MIB, MIB)["errors"] == []
        assert agent.run("udp", HOST, UDP_ECHO, 500, 5)["received"] == 5
        # The loopback address itself is not reached, nor is the address that the host has outside.
        assert agent.run("connect", f"{MIXED}127.0.0.1", DATA)["errno"] != ""
    finally:
        on_host.close()


def test_ends_of_connections_are_as_over_ipv4(agent: Agent, outside: Servers) -> None:
    refused = agent.run("connect", INTERNET_ADDR6, CLOSED_PORT)
    assert (refused["errno"], refused["seconds"] < 1) == ("ECONNREFUSED", True)
    assert agent.run("reset", INTERNET_ADDR6, RESET) == {"errno": "ECONNRESET"}
    agent.run("stop", INTERNET_ADDR6, DISCARD)
    assert outside.next_report("discard") == {"server": "discard", "error": "Connection reset by peer"}
    nobody = agent.run("connect", f"{CONFIG.ipv6_prefix.partition('/')[0]}77", DATA)
    assert nobody["errno"] == "EHOSTUNREACH"


def test_an_ipv4_host_is_reached_under_the_prefix_of_nat64(agent: Agent) -> None:
    assert agent.run("transfer", f"{MIXED}{INTERNET_ADDR}", DATA, MIB, MIB)["errors"] == []
    assert agent.run("udp", f"{MIXED}{INTERNET_ADDR}", UDP_ECHO, 1000, 5)["received"] == 5
    assert " 0% packet loss" in ping(agent.guest, f"{MIXED}{INTERNET_ADDR}")
    for hidden in ("127.0.0.1", "169.254.169.254", "0.0.0.0", "192.168.127.1"):
        assert agent.run("connect", f"{MIXED}{hidden}", HTTP)["errno"] != "", hidden


def iperf(agent: Agent, *words: str) -> dict[str, Any]:
    argv = agent.guest.command(["iperf3", "-6", "-c", INTERNET_ADDR6, "-p", "5201", "-J", *words])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in found, found
    return found["end"]


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
@pytest.mark.parametrize("words", [(), ("-R",), ("-u", "-b", "20M"), ("-u", "-b", "20M", "-R")])
def test_iperf3_over_ipv6(network: Network, agent: Agent, words: tuple[str, ...]) -> None:
    network.internet.popen(["iperf3", "-s", "-1", "-p", "5201"], stdout=subprocess.DEVNULL)
    wait_for(lambda: ":5201 " in network.internet.run("ss", "-Htln").stdout, "the iperf3 server")
    end = iperf(agent, "-t", "2", *words)
    key = "sum" if "-u" in words else "sum_received"
    assert end[key]["bytes"] > MIB


# --- ICMPv6 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 56, 1452, 20000])
def test_an_address_outside_answers_pings(agent: Agent, size: int) -> None:
    assert " 0% packet loss" in ping(agent.guest, INTERNET_ADDR6, "-s", str(size))


def test_the_gateway_and_the_host_address_answer(agent: Agent) -> None:
    for addr in (GATEWAY, HOST, ip.text(ADDRESSES.prefix)):
        assert " 0% packet loss" in ping(agent.guest, addr)


def test_traceroute_sees_the_gateway_and_the_router_beyond(network: Network, agent: Agent) -> None:
    done = agent.guest.run(program("traceroute"), "-6", "-n", "-q", "1", "-w", "2", SECOND_ADDR6).stdout
    hops = re.findall(r"^ *\d+  (\S+)", done, re.M)
    assert hops == [GATEWAY, SECOND_ADDR6], done


def test_a_hop_limit_that_runs_out_is_reported(agent: Agent) -> None:
    argv = ("ping", "-6", "-n", "-c", "1", "-W", "2", "-t", "1", INTERNET_ADDR6)
    done = agent.guest.run(*argv, check=False).stdout
    assert f"From {GATEWAY} icmp_seq=1 Time exceeded: Hop limit" in done


def test_a_port_where_nobody_listens_is_reported(agent: Agent) -> None:
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.settimeout(5)\n"
        f"s.connect(('{INTERNET_ADDR6}', {CLOSED_PORT}))\n"
        "s.send(b'x')\n"
        "try:\n    s.recv(9)\n"
        "except ConnectionRefusedError:\n    print('refused')\n"
    )
    assert agent.guest.run("python3", "-c", code).stdout.strip() == "refused"


# --- forwards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", ["127.0.0.1", "[::1]", "[::]"])
@pytest.mark.parametrize("remote", ["192.168.127.2", f"[{ADDRS[0]}]"])
def test_forwards_join_any_two_families(
    network: Network, daemon: Daemon, agent: Agent, local: str, remote: str
) -> None:
    served = Servers(network.guests[0], network.directory, "::" if "[" in remote else "0.0.0.0")
    forwards = [
        {"local": f"{local}:{6000 + port}", "remote": f"{remote}:{port}", "protocol": protocol}
        for protocol, port in (("tcp", DATA), ("udp", UDP_ECHO))
    ]
    try:
        for asked in forwards:
            status, body = daemon.api("/services/forwarder/expose", asked)
            assert status == 200, body
        address = {"[::]": "::1"}.get(local, local.strip("[]"))
        assert run_client(network.host, "transfer", address, 6000 + DATA, MIB, MIB)["errors"] == []
        assert run_client(network.host, "udp", address, 6000 + UDP_ECHO, 900, 5)["received"] == 5
        for asked in forwards:
            assert daemon.api("/services/forwarder/unexpose", asked)[0] == 200
    finally:
        served.close()


def test_a_guest_asks_over_ipv6_for_a_forward_to_its_ipv4_address(network: Network, agent: Agent) -> None:
    def ask(path: str, **wish: str) -> str:
        argv = ("curl", "-sg", "-w", "%{http_code}", "-d", json.dumps(wish))
        return agent.guest.run(*argv, f"http://[{GATEWAY}]/services/forwarder/{path}").stdout

    served = Servers(network.guests[0], network.directory)
    try:
        local = f"127.0.0.1:{7000 + DATA}"
        assert ask("expose", local=local, remote=f"192.168.127.2:{DATA}") == "200"
        assert run_client(network.host, "transfer", "127.0.0.1", 7000 + DATA, MIB, MIB)["errors"] == []
        assert ask("unexpose", local=local) == "200"
        assert ask("expose", local=local, remote=f"192.168.127.3:{DATA}").endswith("403")
    finally:
        served.close()


# --- routes -----------------------------------------------------------------------------------------


def test_ipv6_is_there_without_a_flag(network: Network) -> None:
    with (
        Daemon(network, ipv4_only=False, name="own") as daemon,
        Agent(network.guests[1], daemon.socket, mac=MACS[1]) as agent,
    ):
        wait_for(lambda: is_usable(agent.guest, ADDRS[1]) and has_route(agent), "an address and a route")


def test_the_default_route_follows_the_hosts(network: Network) -> None:
    with guest_of(network) as (_, agent):
        network.host.ip("-6", "route", "del", "default")
        try:
            wait_for(lambda: not has_route(agent), "no default route", 15)
            assert is_usable(agent.guest, ADDRS[1])
        finally:
            network.host.ip("-6", "route", "add", "default", "via", INTERNET_ADDR6)
        wait_for(lambda: has_route(agent), "a default route again", 15)


def test_a_host_without_ipv6_serves_ipv4(network: Network, outside: Servers) -> None:
    network.host.run("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
    try:
        with (
            Daemon(network, "-ipv6", "auto", name="own") as daemon,
            Agent(network.guests[1], daemon.socket, mac=MACS[1]) as agent,
        ):
            wait_for(lambda: is_usable(agent.guest, ADDRS[1]), "an address")
            assert not has_route(agent)
            assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
            told = [line["event"] for line in daemon.log() if "over IPv6" in line["event"]]
            assert told == ["guests have no default route over IPv6"]
    finally:
        network.host.run("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=0")
        add_host_ipv6(network)


def test_a_rule_about_an_ipv4_address_holds_for_its_form_in_ipv6(network: Network, outside: Servers) -> None:
    path = network.directory / "mixed.yaml"
    denied = [SECOND_ADDR, "169.254.0.0/16"]
    path.write_text(f"egress-policy: {{rules: [{{action: deny, networks: {json.dumps(denied)}}}]}}")
    with guest_of(network, "-config", str(path)) as (_, agent):
        assert agent.run("connect", f"{MIXED}{INTERNET_ADDR}", DATA)["errno"] == ""
        for hidden in (SECOND_ADDR, "169.254.169.254"):
            for form in (MIXED, "::ffff:"):
                found = agent.run("connect", f"{form}{hidden}", DATA)["errno"]
                assert found in ("EHOSTUNREACH", "ECONNREFUSED", "EACCES"), (form, hidden)
