"""Forwards to guests of other hosts over IPv6: each host has an address of its own there, as over IPv4."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator

import pytest

from pipeline.config.fleet import station_mac_of
from pipeline.wire import ip, ipv6
from tests.e2e import test_fleet
from tests.e2e.test_fleet import asked, echoed, forwarded, transferred
from tests.e2e.test_ipv6 import ADDRESSES, slaac
from tests.e2e.test_vxlan import dropped, serving
from tests.support.agent import run_client
from tests.support.daemon import Daemon
from tests.support.fleet import Fleet, FleetHost
from tests.support.nats import NatsCluster, missing
from tests.support.netns import Namespace, leftovers, wait_for
from tests.support.servers import DATA, UDP_ECHO

pytest.importorskip("nats")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(missing()), reason=missing())]

IPV6 = ("-ipv6", "on")
MOVER = "5a:94:ef:e4:0d:77"


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Three hosts with one guest each."""
    with Fleet(3) as made:
        yield made
    assert leftovers() == []


def running(cluster: NatsCluster, *hosts: FleetHost) -> contextlib.AbstractContextManager[list[Daemon]]:
    """A daemon with IPv6 and a guest on each host. Each host finds the others by the cluster."""
    return test_fleet.running(cluster, *hosts, flags=IPV6)


def station_addr(host: FleetHost) -> str:
    """The address of a host among guests."""
    return ip.text(ipv6.of_mac(ADDRESSES.prefix, station_mac_of("gvtap", f"host{host.number}")))


def addresses6(guest: Namespace) -> str:
    return guest.run("ip", "-6", "address", "show", "scope", "global", "dev", "eth0").stdout


def address6(guest: Namespace) -> str:
    """The IPv6 address that the guest has made of the prefix."""

    def settled() -> str:
        shown = addresses6(guest)
        found = re.search(r"inet6 (\S+)/64", shown)
        return found[1] if found and "tentative" not in shown else ""

    return wait_for(settled, "an IPv6 address", 20.0)


def test_forwards_lead_to_guests_of_other_hosts_over_ipv6(fleet: Fleet) -> None:
    _, second, third = fleet.hosts
    with NatsCluster(fleet.hosts[:1]) as cluster, running(cluster, *fleet.hosts) as daemons:
        address = address6(second.guest)
        with serving(second.guest, second, "::"):
            words = (f":8080:[{address}]:{DATA}", f"8082:[{address}]:{UDP_ECHO}/udp")
            opened = asked(third, cluster, "expose", *words)
            assert opened.splitlines()[0] == f":8080 -> [{address}]:{DATA} tcp"
            for daemon in daemons:
                wait_for(lambda daemon=daemon: len(forwarded(daemon)) == 2, "them")
            for host in fleet.hosts:
                assert transferred(host, 8080) == []
                assert echoed(host, 8082) == 10
                # In fragments.
                found = run_client(host.host, "udp", "127.0.0.1", 8082, 6000, 3)
                assert found["received"] == 3
            # What a single host forwards.
            daemons[2].expose("[::1]:8083", f"[{address}]:{DATA}")
            third.host.ip("link", "set", "lo", "up")
            assert run_client(third.host, "transfer", "::1", 8083, 1 << 20, 1 << 20)["errors"] == []
            wait_for(lambda: address in asked(third, cluster, "guests"), "the place of the guest")
            rows = [line.split() for line in asked(third, cluster, "forwards").splitlines()[1:]]
            assert [row[3] for row in rows] == ["host1", "host1"]
        assert [dropped(daemon, "vxlan_packet_dropped_not_for_host") for daemon in daemons] == [0, 0, 0]


def test_the_guest_sees_the_host_s_own_address_and_cannot_have_it(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with NatsCluster(fleet.hosts[:1]) as cluster, running(cluster, first, second) as daemons:
        address = address6(second.guest)
        listener = second.guest.call(
            lambda: socket.create_server(("::", 9999), family=socket.AF_INET6, dualstack_ipv6=False)
        )
        listener.settimeout(10.0)
        with listener:
            seen = []
            for host, daemon in ((first, daemons[0]), (second, daemons[1])):
                daemon.expose("127.0.0.1:8080", f"[{address}]:9999")
                with host.host.connect("127.0.0.1", 8080) as client:
                    accepted, peer = listener.accept()
                    with accepted:
                        accepted.sendall(b"hello")
                        client.settimeout(10.0)
                        assert client.recv(10) == b"hello"
                    seen.append(peer[0])
        assert seen == [station_addr(first), ip.text(ADDRESSES.gateway)]
        # A guest of either host that wants this address finds it taken (RFC 4862 section 5.4).
        for host in (first, second):
            guest, wanted = host.guest, station_addr(first)
            guest.run("ip", "-6", "address", "add", f"{wanted}/64", "dev", "eth0")
            wait_for(lambda guest=guest: "dadfailed" in addresses6(guest), "it is taken", 10.0)
            guest.run("ip", "-6", "address", "del", f"{wanted}/64", "dev", "eth0")


def test_a_forward_reaches_a_guest_that_has_moved_over_ipv6(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    address = slaac(MOVER)
    with NatsCluster(fleet.hosts[:1]) as cluster, contextlib.ExitStack() as stack:
        daemons = []
        taps = (first.tap(), second.tap(mac=MOVER), third.tap(mac=MOVER))
        for host, tap in zip(fleet.hosts, taps, strict=True):
            words = (*host.fleet_link(), *tap, "-fleet", cluster.url, "-fleet-host", f"host{host.number}")
            daemons.append(stack.enter_context(Daemon(host, *words, *IPV6)))
            wait_for(lambda daemon=daemons[-1]: daemon.events("fleet reached"), "the cluster", 30.0)
        third.guest.ip("link", "set", "eth0", "down")
        assert address6(second.guest) == address
        asked(third, cluster, "expose", f"8080:[{address}]:{DATA}")
        for daemon in daemons:
            wait_for(lambda daemon=daemon: forwarded(daemon), "the forward")
        with serving(second.guest, second, "::"):
            for host in fleet.hosts:
                wait_for(lambda host=host: transferred(host, 8080) == [], "the guest", 30.0)
        second.guest.ip("link", "set", "eth0", "down")
        third.guest.ip("link", "set", "eth0", "up")
        assert address6(third.guest) == address
        with serving(third.guest, third, "::"):
            for host in fleet.hosts:
                wait_for(lambda host=host: transferred(host, 8080) == [], "the new place", 30.0)


def test_forwards_over_ipv6_go_on_when_demux_has_died(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with NatsCluster(fleet.hosts[:1]) as cluster, running(cluster, first, second) as daemons:
        address = address6(second.guest)
        with serving(second.guest, second, "::"):
            daemons[0].expose("127.0.0.1:8080", f"[{address}]:{DATA}")
            assert transferred(first, 8080) == []
            daemons[0].expect_errors = True
            before = daemons[0].processes()["demux"]
            Namespace.run(first.host, "kill", "-9", str(before))
            wait_for(lambda: daemons[0].processes().get("demux", before) != before, "a successor")
            wait_for(lambda: transferred(first, 8080) == [], "the guest again", 30.0)
        found = json.loads(daemons[0].api("/services/forwarder/all")[1])
        assert [forward["remote"] for forward in found] == [f"[{address}]:{DATA}"]
