"""IPv6 over small and bad links: path MTU discovery (RFC 8201) in both directions, and loss."""

from collections.abc import Iterator

import pytest

from pipeline.wire import ip
from tests.e2e.test_bad_link import Shim
from tests.e2e.test_ipv6 import ADDRESSES, ADDRS, LINK_LOCAL, MACS, is_usable
from tests.support import dual_stack
from tests.support.agent import Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR6, Namespace, Network, wait_for
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
INNER = ip.text(ADDRESSES.prefix | 0x50)
ROUTER = "fe80::1"
SMALL_MTU = "1300"
LEAST_MTU = "1280"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with dual_stack.network(2) as made:
        yield made


@pytest.fixture(scope="module")
def outside(network: Network) -> Iterator[Servers]:
    with dual_stack.servers(network) as servers:
        yield servers


@pytest.fixture
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    with Daemon(network, "-ipv6", "on") as made:
        yield made


@pytest.fixture(params=[(), ("-offload=false",)], ids=["offload", "plain"])
def guest(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with Agent(daemon.network.guest, daemon.socket, *request.param, mac=MACS[0]) as agent:
        wait_for(lambda: is_usable(agent.guest, ADDRS[0]), "an address")
        yield agent.guest


@pytest.fixture
def inner(network: Network, guest: Namespace) -> Iterator[Namespace]:
    """What lies behind a guest that routes to it. Its own link says nothing of the small hop."""
    inner = network.guests[1]
    guest.ip("link", "add", "inner0", "type", "veth", "peer", "name", "eth0", "netns", inner.name)
    guest.ip("link", "set", "inner0", "up")
    guest.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.all.proxy_ndp=1")
    guest.run("sysctl", "-q", "-w", "net.ipv6.conf.tap0.proxy_ndp=1")
    guest.ip("-6", "address", "add", f"{ROUTER}/64", "dev", "inner0", "nodad")
    guest.ip("-6", "route", "replace", "default", "via", LINK_LOCAL, "dev", "tap0")
    guest.ip("-6", "route", "add", f"{INNER}/128", "dev", "inner0", "mtu", "lock", SMALL_MTU)
    guest.ip("-6", "neighbor", "add", "proxy", INNER, "dev", "tap0")
    inner.ip("link", "set", "eth0", "up")
    inner.ip("-6", "address", "add", f"{INNER}/128", "dev", "eth0", "nodad")
    inner.ip("-6", "route", "add", "default", "via", ROUTER, "dev", "eth0")
    yield inner
    guest.ip("-6", "neighbor", "del", "proxy", INNER, "dev", "tap0")
    guest.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.all.proxy_ndp=0")
    guest.ip("link", "delete", "inner0")


def test_bulk_data_pass_a_small_link_behind_a_guest(daemon: Daemon, inner: Namespace) -> None:
    outcome = run_client(inner, "transfer", INTERNET_ADDR6, DATA, 4 * MIB, 4 * MIB, timeout=60)
    assert outcome["errors"] == []
    assert daemon.gauge("tcp_path_mtu_lowered")["tcp0"] == 1
    assert daemon.gauge("icmp_error_received")["demux"] >= 1


def test_a_ping_that_is_too_big_for_the_hosts_way_is_told_its_mtu(network: Network, guest: Namespace) -> None:
    network.host.ip("-6", "route", "add", f"{INTERNET_ADDR6}/128", "dev", "veth0", "mtu", LEAST_MTU)
    try:
        words = ("ping", "-6", "-n", "-c", "3", "-i", "0.2", "-W", "2", "-M", "do", "-s", "1400")
        done = guest.run(*words, INTERNET_ADDR6, check=False).stdout
        assert f"Packet too big: mtu={LEAST_MTU}" in done, done
    finally:
        network.host.ip("-6", "route", "del", f"{INTERNET_ADDR6}/128", "dev", "veth0", "mtu", LEAST_MTU)


def test_at_the_least_mtu_everything_fits(network: Network, outside: Servers) -> None:
    with (
        Daemon(network, "-ipv6", "on", "-mtu", LEAST_MTU) as daemon,
        Agent(network.guest, daemon.socket, "-offload=false", mac=MACS[0]) as agent,
    ):
        wait_for(lambda: is_usable(agent.guest, ADDRS[0]), "an address")
        assert f" mtu {LEAST_MTU} " in agent.guest.run("ip", "link", "show", "tap0").stdout
        assert agent.run("transfer", INTERNET_ADDR6, DATA, 4 * MIB, 4 * MIB)["errors"] == []
        assert agent.run("udp", INTERNET_ADDR6, UDP_ECHO, 4000, 5)["received"] == 5


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_bulk_transfer_over_a_bad_link_arrives_with_its_hash(daemon: Daemon, direction: str) -> None:
    shim = Shim(daemon, "-loss", "0.01", "-duplicate", "0.01", "-reorder", "0.01", "-seed", "7")
    wait_for(lambda: is_usable(shim.guest, ADDRS[0]), "an address")
    wait_for(lambda: "default via" in shim.guest.run("ip", "-6", "route").stdout, "a route")
    down, up = (16 * MIB, 0) if direction == "down" else (0, 16 * MIB)
    outcome = run_client(shim.guest, "transfer", INTERNET_ADDR6, DATA, down, up, timeout=250)
    assert outcome["errors"] == []
    for counts in shim.stop().values():
        assert min(counts["lost"], counts["duplicated"], counts["reordered"]) > 0, counts
