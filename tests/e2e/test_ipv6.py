"""Kernel guests with IPv6 on the link: addresses by SLAAC, the gateway, its name server, and each other."""

import contextlib
import ipaddress
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.wire import ethernet, ip, ipv6
from tests.config.built import build
from tests.support.agent import GATEWAY_ADDR, GUEST_MAC, Agent
from tests.support.daemon import Daemon
from tests.support.netns import Namespace, Network, leftovers, wait_for

pytestmark = pytest.mark.e2e

MACS = (GUEST_MAC, "5a:94:ef:e4:0c:98")
PLACEMENTS = ("separate", "auto")
CONFIG = build("-ipv6", "on", "-ssh-port", "-1")[0].network
ADDRESSES = Ipv6Addresses(
    CONFIG.ipv6_first, CONFIG.gateway_mac, gateway=CONFIG.ipv6_gateway, host=CONFIG.ipv6_host
)
GATEWAY, LINK_LOCAL = ip.text(ADDRESSES.gateway), ip.text(ADDRESSES.link_local)


def program(name: str) -> str:
    """Where a program is; skips the test without it."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return found or pytest.skip(f"{name} is not installed")


def slaac(mac: str) -> str:
    """The address that a kernel makes of the prefix and a MAC address (addr_gen_mode eui64)."""
    own = ipv6.link_local(ethernet.mac_parse(mac))
    return ip.text(ADDRESSES.prefix | own & 0xFFFFFFFFFFFFFFFF)


ADDRS = tuple(slaac(mac) for mac in MACS)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Namespaces for two guests."""
    with Network(guest_count=2) as made:
        yield made
    assert leftovers() == []


def shown(guest: Namespace, addr: str) -> str:
    """What the kernel says of an address of the guest; empty if it does not have it."""
    lines = guest.run("ip", "-6", "-o", "address", "show", "dev", "tap0").stdout.splitlines()
    return next((line for line in lines if f" {addr}/" in line), "")


def is_usable(guest: Namespace, addr: str) -> bool:
    """Whether the guest has the address, and has found no other one that has it."""
    return bool(found := shown(guest, addr)) and " tentative" not in found


class Guests:
    """A daemon with two guests that have their addresses."""

    def __init__(self, daemon: Daemon, agents: list[Agent]) -> None:
        self.daemon = daemon
        self.first, self.second = (agent.guest for agent in agents)

    def counted(self, name: str) -> int:
        """A counter of demux."""
        return sum(self.daemon.gauge(name).values())


@contextlib.contextmanager
def guests_of(network: Network, *flags: str) -> Iterator[Guests]:
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(network, "-ipv6", "on", *flags))
        agents = [
            stack.enter_context(Agent(guest, daemon.socket, mac=mac))
            for guest, mac in zip(network.guests, MACS, strict=True)
        ]
        for agent, addr in zip(agents, ADDRS, strict=True):
            wait_for(lambda agent=agent, addr=addr: is_usable(agent.guest, addr), f"a guest has {addr}")
        yield Guests(daemon, agents)


@pytest.fixture(params=PLACEMENTS)
def guests(request: pytest.FixtureRequest, network: Network) -> Iterator[Guests]:
    with guests_of(network, "-placement", request.param) as made:
        yield made


def ping(guest: Namespace, to: str, *words: str) -> str:
    return guest.run("ping", "-6", "-n", "-c", "3", "-i", "0.1", "-W", "2", *words, to).stdout


def test_guests_reach_the_gateway_and_each_other(guests: Guests) -> None:
    for guest in (guests.first, guests.second):
        assert " 0% packet loss" in ping(guest, GATEWAY)
        assert " 0% packet loss" in ping(guest, GATEWAY, "-s", "1452")
        assert " 0% packet loss" in ping(guest, f"{LINK_LOCAL}%tap0")
        assert f"default via {LINK_LOCAL}" in guest.run("ip", "-6", "route").stdout
    assert " 0% packet loss" in ping(guests.first, ADDRS[1])
    assert " 0% packet loss" in ping(guests.second, ADDRS[0])
    assert guests.counted("icmp_echo_answered") >= 18
    for addr, mac in zip(ADDRS, MACS, strict=True):
        assert guests.daemon.api("/guests")[1].decode().count(addr) == 1, mac


def test_names_resolve_at_the_gateways_address(guests: Guests) -> None:
    dig = program("dig")
    answer = guests.first.run(dig, "+short", "+timeout=2", f"@{GATEWAY}", "gateway.containers.internal")
    assert answer.stdout.split() == [GATEWAY_ADDR]


def test_an_ipv6_address_of_a_zone_is_asked_for_over_ipv6(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    zone = "stack: {dns: [{name: lan., records: [{name: six, ip: 'fd00::6'}]}]}\n"
    path.write_text(zone)
    with guests_of(network, "-config", str(path)) as guests:
        words = (f"@{GATEWAY}", "+short", "+timeout=2", "AAAA", "six.lan")
        assert guests.first.run(program("dig"), *words).stdout.split() == ["fd00::6"]


def test_an_advertisement_says_what_guests_need(guests: Guests) -> None:
    answer = guests.first.run(program("rdisc6"), "-1", "tap0").stdout
    found = {name.strip(): value.strip() for name, value in re.findall(r"^([^:\n]+?) *: (.*)$", answer, re.M)}
    network = ipaddress.IPv6Network(CONFIG.ipv6_prefix)
    assert found["Prefix"] == str(network)
    assert found["MTU"].startswith("1500 ")
    assert found["Recursive DNS server"] == GATEWAY
    assert found["Router lifetime"].split()[0] == "1800"
    assert found["Source link-layer address"] == "5A:94:EF:E4:0C:DD"
    assert f"from {LINK_LOCAL}" in answer


def test_ndisc6_finds_the_gateway_and_the_other_guest(guests: Guests) -> None:
    ndisc6 = program("ndisc6")
    for addr, mac in ((GATEWAY, "5A:94:EF:E4:0C:DD"), (ADDRS[1], MACS[1].upper())):
        assert mac in guests.first.run(ndisc6, "-1", addr, "tap0").stdout


@pytest.mark.parametrize("kind", ["guarded", "isolated"])
def test_the_address_of_another_live_guest_is_a_duplicate(network: Network, kind: str) -> None:
    with guests_of(network, "-guests", kind) as guests:
        ping(guests.first, GATEWAY)
        guests.second.ip("address", "add", f"{ADDRS[0]}/64", "dev", "tap0")
        wait_for(lambda: " dadfailed" in shown(guests.second, ADDRS[0]), "the kernel finds the duplicate")
        guests.second.ip("address", "del", f"{ADDRS[0]}/64", "dev", "tap0")
        # A guest that does not look cannot use it either.
        guests.second.ip("address", "add", f"{ADDRS[0]}/64", "dev", "tap0", "nodad")
        lost = guests.second.run(
            *("ping", "-6", "-n", "-c", "5", "-i", "0.2", "-W", "1", "-I", ADDRS[0], GATEWAY), check=False
        )
        assert " 0 received" in lost.stdout
        assert " 0% packet loss" in ping(guests.first, GATEWAY, "-I", ADDRS[0])
        assert guests.counted("neighbor_claim_refused_address_taken") > 0
        guests.second.ip("address", "del", f"{ADDRS[0]}/64", "dev", "tap0")


def test_without_the_flag_there_is_no_address_and_no_answer(network: Network) -> None:
    with Daemon(network) as daemon, Agent(network.guests[0], daemon.socket) as agent:
        agent.guest.run("ping", "-n", "-c", "1", "-W", "2", GATEWAY_ADDR)
        own = ip.text(ipv6.link_local(ethernet.mac_parse(GUEST_MAC)))
        wait_for(lambda: is_usable(agent.guest, own), "the kernel has a link-local address")
        answer = agent.guest.run(program("rdisc6"), "-1", "-r", "1", "-w", "500", "tap0", check=False)
        assert "No response" in answer.stdout + answer.stderr
        assert shown(agent.guest, ADDRS[0]) == ""
        assert sum(daemon.gauge("ipv6_packets_received").values()) == 0
