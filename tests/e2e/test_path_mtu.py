"""A guest that routes to a smaller link behind it: its kernel's "fragmentation needed" counts (RFC 1191)."""

from collections.abc import Iterator

import pytest

from tests.support.agent import GATEWAY_ADDR, Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Namespace
from tests.support.servers import DATA

pytestmark = pytest.mark.e2e

MIB = 1 << 20
INNER_ADDR = "192.168.127.50"
INNER_MTU = "1300"


@pytest.fixture(params=[(), ("-offload=false",)], ids=["offload", "plain"])
def router(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """The guest that routes."""
    with Agent(daemon.network.guest, daemon.socket, *request.param) as made:
        yield made


@pytest.fixture
def inner(daemon: Daemon, router: Agent) -> Iterator[Namespace]:
    """What lies behind it; its own link says nothing of the small hop, so neither do its SYNs."""
    outer, inner = router.guest, daemon.network.guests[1]
    outer.ip("link", "add", "inner0", "type", "veth", "peer", "name", "eth0", "netns", inner.name)
    outer.ip("link", "set", "inner0", "up")
    outer.ip("route", "add", f"{INNER_ADDR}/32", "dev", "inner0", "mtu", "lock", INNER_MTU)
    outer.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.proxy_arp=1")
    inner.ip("link", "set", "eth0", "up")
    inner.ip("address", "add", f"{INNER_ADDR}/24", "dev", "eth0")
    inner.ip("route", "add", "default", "via", GATEWAY_ADDR)
    yield inner
    outer.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0", "net.ipv4.conf.all.proxy_arp=0")
    outer.ip("link", "delete", "inner0")


def test_bulk_data_pass_a_small_link_behind_a_guest(daemon: Daemon, inner: Namespace) -> None:
    outcome = run_client(inner, "transfer", INTERNET_ADDR, DATA, 4 * MIB, 4 * MIB, timeout=30)
    assert outcome["errors"] == []
    assert daemon.gauge("tcp_path_mtu_lowered")["tcp0"] == 1
    assert daemon.gauge("icmp_error_received")["demux"] >= 1
