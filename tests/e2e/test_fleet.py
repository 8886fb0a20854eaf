"""A fleet: daemons in namespaces of their own, and a cluster of three real NATS servers."""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf import compiled
from tests.e2e.test_restarted import Restartable
from tests.e2e.test_vxlan import dropped, guest_addr, kernel_guest, reaches, serving
from tests.support import quick_start
from tests.support.agent import GATEWAY_ADDR, run_client
from tests.support.daemon import Daemon
from tests.support.fleet import Fleet, FleetHost, host_addr
from tests.support.nats import CLIENT_PORT, NatsCluster, dhcp, missing
from tests.support.netns import Namespace, leftovers, wait_for
from tests.support.servers import DATA, UDP_ECHO

pytest.importorskip("nats")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(missing()), reason=missing())]

MIB = 1 << 20
LARGE = int(os.environ.get("FLEET_MIB", "8")) * MIB
"""Bytes of a large file. Its receiver compares the hashes."""
REACHED = "fleet reached"
JOINED = "fleet host joined"


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Three hosts with one guest each."""
    with Fleet(3) as made:
        yield made
    assert leftovers() == []


@contextlib.contextmanager
def running(cluster: NatsCluster, *hosts: FleetHost, flags: tuple[str, ...] = ()) -> Iterator[list[Daemon]]:
    """A daemon and a guest on each host. Each host finds the others by the cluster."""
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(one(cluster, host, flags=flags)) for host in hosts]
        for daemon in daemons:
            wait_for(lambda daemon=daemon: len(daemon.events(JOINED)) >= len(hosts) - 1, "all hosts", 30.0)
        yield daemons


@contextlib.contextmanager
def one(
    cluster: NatsCluster,
    host: FleetHost,
    *,
    flags: tuple[str, ...] = (),
    link: tuple[str, ...] = (),
) -> Iterator[Restartable]:
    """link: the flag of the link to other hosts, if it is not the usual one."""
    named = ("-fleet", cluster.url, "-fleet-host", f"host{host.number}", "-guest-names", "vm.internal")
    with Restartable(host, *(link or host.fleet_link()), *host.tap(), *named, *flags) as daemon:
        wait_for(lambda: daemon.events(REACHED), "the cluster", 30.0)
        yield daemon


def test_guests_of_three_hosts_get_addresses_names_and_each_other(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    with NatsCluster(fleet.hosts) as cluster, running(cluster, *fleet.hosts) as daemons:
        addresses = [dhcp(host, f"guest{host.number}") for host in fleet.hosts]
        assert "" not in addresses
        assert len(set(addresses)) == 3
        for address in addresses[1:]:
            assert reaches(first.guest, address)
        assert reaches(third.guest, addresses[1])
        assert reaches(first.guest, GATEWAY_ADDR)
        for host in (first, third):
            answer = run_client(host.guest, "resolve", GATEWAY_ADDR, "guest1.vm.internal.", "A", "udp")
            assert answer["answers"] == [addresses[1]]
        # A host that has just joined may send to one that does not know it yet.
        unknown = [dropped(daemon, "vxlan_datagram_dropped_unknown_source") for daemon in daemons]
        with serving(second.guest, second):
            moved = run_client(first.guest, "transfer", addresses[1], DATA, LARGE, LARGE)
            assert moved["errors"] == []
        for daemon, before in zip(daemons, unknown, strict=True):
            assert dropped(daemon, "vxlan_datagram_dropped_unknown_source") == before
        assert dhcp(second) == addresses[1], "the same address again"
        shown = asked(first, cluster, "status")
        assert [line.split()[0] for line in shown.splitlines()] == ["HOST", "host0", "host1", "host2"]
        wait_for(lambda: addresses[2] in asked(first, cluster, "guests"), "the place of a guest")
        (row,) = [line for line in asked(first, cluster, "guests").splitlines() if addresses[2] in line]
        assert row.split()[1:3] == ["host2", "guest2"]


def asked(host: FleetHost, cluster: NatsCluster, *words: str) -> str:
    """What a command about the fleet prints, on this host."""
    command = (*compiled.command("gvtap-pipeline"), "fleet", *words)
    fleet = ("-fleet", cluster.url, "-fleet-host", "somebody")
    return host.host.ask(quick_start.DAEMON, *command, *fleet).stdout


def test_a_policy_of_the_fleet_holds_on_all_hosts_and_at_the_next_start(fleet: Fleet, tmp_path: Path) -> None:
    first, second, _ = fleet.hosts
    path = tmp_path / "policy.yaml"
    path.write_text("egress-policy: {default: deny}\n")
    with NatsCluster(fleet.hosts[:1]) as cluster:
        with running(cluster, first, second) as daemons:
            asked(second, cluster, "set-policy", str(path))
            for daemon in daemons:
                wait_for(lambda daemon=daemon: daemon.events("egress policy changed"), "the policy")
            assert "default: deny" in asked(first, cluster, "show-policy")
        with one(cluster, first) as again:
            wait_for(lambda: again.events("egress policy changed"), "the policy at the start")


def test_a_guest_that_moves_keeps_its_address_and_its_connections_are_reset(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    mac = "5a:94:ef:e4:0d:77"
    with NatsCluster(fleet.hosts[:1]) as cluster, contextlib.ExitStack() as stack:
        named = ("-fleet", cluster.url)
        taps = {first: first.tap(), second: second.tap(mac=mac), third: third.tap(mac=mac)}
        daemons = {}
        for host, tap in taps.items():
            words = (*host.fleet_link(), *tap, *named, "-fleet-host", f"host{host.number}")
            daemons[host] = stack.enter_context(Daemon(host, *words))
            if host is third:
                break
            wait_for(lambda host=host: daemons[host].events(REACHED), "the cluster", 30.0)
        wait_for(lambda: len(daemons[third].events(JOINED)) == 2, "all hosts", 30.0)
        third.guest.ip("link", "set", "eth0", "down")
        mover = dhcp(second)
        assert mover
        other = dhcp(first)
        assert other
        assert reaches(first.guest, mover)
        listener = second.host.call(lambda: socket.create_server((host_addr(second.number), 7000)))
        with listener:
            client = second.guest.connect(host_addr(second.number), 7000)
            served, _ = listener.accept()
            with client, served:
                second.guest.ip("link", "set", "eth0", "down")
                third.guest.ip("link", "set", "eth0", "up")
                assert dhcp(third) == mover
                served.settimeout(20.0)
                with pytest.raises(ConnectionResetError):
                    served.recv(1)
        wait_for(lambda: reaches(first.guest, mover), "the new place", 10.0)
        # Before, the third host's tap was up for a moment, with the same MAC.
        assert daemons[second].events("fleet guest moved")[-1]["host"] == "host2"
        assert dropped(daemons[second], "tcp_flow_reset_guest_moved") == 1


def test_the_fleet_outlives_its_servers(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    with NatsCluster(fleet.hosts) as cluster, running(cluster, first, second) as daemons:
        addresses = [dhcp(first), dhcp(second)]
        assert "" not in addresses
        assert reaches(first.guest, addresses[1])
        # One server: the sessions with it move to another one.
        cluster.servers[0].kill()
        assert reaches(first.guest, addresses[1])
        assert dhcp(first) == addresses[0]
        cluster.servers[0].start()
        # All of them: hosts go on as they know each other, and new guests get addresses of the reserve.
        cluster.kill()
        for daemon in daemons:
            wait_for(lambda daemon=daemon: daemon.events("fleet cannot be reached"), "away", 30.0)
        assert reaches(first.guest, addresses[1])
        first.guest.ip("link", "set", "eth0", "address", "5a:94:ef:00:00:09")
        offline = dhcp(first)
        assert offline not in ("", *addresses)
        before = [len(daemon.events(REACHED)) for daemon in daemons]
        cluster.start()
        for daemon, count in zip(daemons, before, strict=True):
            wait_for(lambda daemon=daemon, n=count: len(daemon.events(REACHED)) > n, "again", 60.0)
        with one(cluster, third) as late:
            wait_for(lambda: len(late.events(JOINED)) == 2, "all hosts", 30.0)
            newest = dhcp(third)
            assert newest not in ("", offline, *addresses)
            assert reaches(third.guest, offline)
            assert reaches(third.guest, addresses[1])


def test_a_host_that_is_killed_is_left_out_and_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    first, second, _ = fleet.hosts
    path = tmp_path / "fleet.yaml"
    path.write_text("fleet: {ttl: 6}\n")
    with NatsCluster(fleet.hosts[:1]) as cluster, one(cluster, first, flags=("-config", str(path))) as here:
        address = dhcp(first)
        words = (
            *("-fleet", cluster.url, "-fleet-host", "host1"),
            "-config",
            str(path),
            "-guest-names",
            "vm.internal",
        )
        words += (*second.fleet_link(), *second.tap(mac="5a:94:ef:e4:0d:21"))
        killed = Daemon(second, *words)
        killed.start()
        wait_for(lambda: here.events(JOINED), "the other host", 30.0)
        other = dhcp(second)
        assert other not in ("", address)
        assert reaches(first.guest, other)
        killed.kill()
        wait_for(lambda: here.events("fleet host left"), "the host is left out", 30.0)
        with Daemon(second, *words, name="again"):
            wait_for(lambda: len(here.events(JOINED)) == 2, "the host is back", 30.0)
            assert dhcp(second) == other
            assert reaches(first.guest, other)
        assert not here.events("fleet host has another network")


def test_hosts_that_are_separated_give_no_address_twice_and_find_each_other_again(fleet: Fleet) -> None:
    first, _, third = fleet.hosts
    with NatsCluster(fleet.hosts) as cluster, running(cluster, *fleet.hosts) as daemons:
        addresses = [dhcp(host) for host in fleet.hosts]
        assert "" not in addresses
        fleet.wire.ip("link", "set", f"port{third.number}", "down")
        try:
            wait_for(lambda: daemons[2].events("fleet cannot be reached"), "the third host is alone", 60.0)
            assert reaches(first.guest, addresses[1]), "the others go on"
            for host in fleet.hosts:
                host.guest.ip("link", "set", "eth0", "address", f"5a:94:ef:00:01:0{host.number}")
                addresses.append(dhcp(host))
            assert "" not in addresses, "those without servers have a reserve"
        finally:
            fleet.wire.ip("link", "set", f"port{third.number}", "up")
        assert len(set(addresses)) == 6
        wait_for(lambda: len(daemons[2].events(REACHED)) > 1, "the third host is back", 120.0)
        wait_for(lambda: reaches(first.guest, addresses[5]), "traffic", 30.0)
        assert [dhcp(host) for host in fleet.hosts] == addresses[3:]


def test_a_daemon_that_is_restarted_keeps_its_place_in_the_fleet(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with (
        NatsCluster(fleet.hosts[:1]) as cluster,
        one(cluster, second) as other,
        one(cluster, first) as daemon,
    ):
        wait_for(lambda: other.events(JOINED) and daemon.events(JOINED), "all hosts", 30.0)
        addresses = [dhcp(first, "guest0"), dhcp(second)]
        assert "" not in addresses
        assert reaches(second.guest, addresses[0])
        wait_for(lambda: addresses[0] in asked(first, cluster, "guests"), "the place of a guest")
        wait_for(lambda: "guest0" in asked(first, cluster, "guests"), "the name of a guest")
        for count in (2, 3):
            daemon.restart()
            wait_for(lambda count=count: len(daemon.events(REACHED)) == count, "the cluster", 30.0)
            wait_for(lambda count=count: len(daemon.events(JOINED)) == count, "the other host", 30.0)
            # The new link learns the other hosts when its daemon has reached the cluster.
            wait_for(lambda: reaches(second.guest, addresses[0]), "traffic", 30.0)
            (row,) = [line for line in asked(first, cluster, "guests").splitlines() if addresses[0] in line]
            assert row.split()[1:3] == ["host0", "guest0"], "its name stays, although it has not renewed"
            assert dhcp(first, "guest0") == addresses[0]
        assert not other.events("fleet host left")
        assert not daemon.events("fleet has another host with this name")


RANGE = ("-dhcp-range", "192.168.127.100-192.168.127.199")


def put(host: FleetHost, cluster: NatsCluster, key: str, value: str) -> None:
    """Write a key of the fleet's bucket, as ``nats kv put`` does."""
    script = (
        "import asyncio, sys\n"
        "from pipeline.fleet.store import Access, Session\n"
        "async def put(server, key, value):\n"
        "    session = Session(Access((server,), 'gvtap', 'x', '', '', None))\n"
        "    await session.open(server)\n"
        "    assert await session.write(key, value.encode(), None)\n"
        "    await session.close()\n"
        "asyncio.run(put(*sys.argv[1:]))\n"
    )
    server = f"nats://{cluster.servers[0].url_host}:{CLIENT_PORT}"
    host.host.run(sys.executable, "-P", "-c", script, server, key, value)


def test_a_fourth_host_is_linux_with_a_kernel_guest_and_no_daemon() -> None:
    with Fleet(4) as fleet, NatsCluster(fleet.hosts[:1]) as cluster, contextlib.ExitStack() as stack:
        *hosts, fourth = fleet.hosts
        # A host without a daemon is not a member, so each link names it.
        daemons = [
            stack.enter_context(one(cluster, host, flags=RANGE, link=host.link(fourth.number)))
            for host in hosts
        ]
        for daemon in daemons:
            wait_for(lambda daemon=daemon: len(daemon.events(JOINED)) == 2, "all hosts", 30.0)
        addresses = [dhcp(host, f"guest{host.number}") for host in hosts]
        assert "" not in addresses
        kernel = stack.enter_context(kernel_guest(fourth, *(host.number for host in hosts)))
        stack.enter_context(serving(kernel, fourth))
        stack.enter_context(serving(hosts[1].guest, hosts[1]))
        linux = guest_addr(fourth)
        put(
            hosts[2],
            cluster,
            "zone.lab",
            json.dumps({"Name": "lab.", "Records": [{"Name": "x", "IP": linux}]}),
        )
        for host, address in zip(hosts, addresses, strict=True):
            assert reaches(kernel, address)
            assert reaches(host.guest, linux)
            wait_for(lambda guest=host.guest: resolved(guest, "x.lab.") == [linux], "the name")
            moved = run_client(host.guest, "transfer", linux, DATA, 8 * MIB, 8 * MIB)
            assert moved["errors"] == []
        moved = run_client(kernel, "transfer", addresses[1], DATA, LARGE, LARGE)
        assert moved["errors"] == []
        assert reaches(hosts[0].guest, addresses[2]), "the members still reach each other"
    assert leftovers() == []


def resolved(guest: Namespace, name: str) -> list[str]:
    return list(run_client(guest, "resolve", GATEWAY_ADDR, name, "A", "udp")["answers"])


def transferred(host: FleetHost, port: int) -> list[str]:
    """What goes wrong with a transfer by a forwarded port of this host."""
    return list(run_client(host.host, "transfer", "127.0.0.1", port, MIB, MIB)["errors"])


def echoed(host: FleetHost, port: int) -> int:
    """How many of ten datagrams come back by a forwarded port of this host."""
    return int(run_client(host.host, "udp", "127.0.0.1", port, 1000, 10)["received"])


def forwarded(daemon: Daemon) -> list[str]:
    """The local addresses of what the daemon forwards."""
    return [forward["local"] for forward in json.loads(daemon.api("/services/forwarder/all")[1])]


def test_a_forward_of_the_fleet_leads_to_its_guest_from_every_host(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    taken = first.host.call(lambda: socket.create_server(("127.0.0.1", 8081)))
    with NatsCluster(fleet.hosts[:1]) as cluster, running(cluster, first, second) as daemons:
        address = dhcp(second, "guest1")
        assert dhcp(first)
        with taken, serving(second.guest, second):
            words = (f":8080:{address}:{DATA}", f"8081:{address}:{DATA}", f"8082:{address}:{UDP_ECHO}/udp")
            opened = asked(third, cluster, "expose", *words)
            assert opened.splitlines()[0] == f":8080 -> {address}:{DATA} tcp"
            assert asked(third, cluster, "expose", words[0]), "the same again"
            for daemon in daemons:
                wait_for(lambda daemon=daemon: {":8080", "127.0.0.1:8082"} <= {*forwarded(daemon)}, "them")
            for host in (first, second):
                assert transferred(host, 8080) == []
                assert echoed(host, 8082) == 10
            # A port that is busy on one host is open on the others, and here when it is free.
            (refused,) = daemons[0].events("fleet forward refused")
            assert refused["local"] == "127.0.0.1:8081"
            assert "address already in use" in refused["error"]
            assert dropped(daemons[0], "fleet_forwards_waiting") == 1
            assert transferred(second, 8081) == []
            taken.close()
            wait_for(lambda: len(forwarded(daemons[0])) == 3, "the free port", 60.0)
            assert transferred(first, 8081) == []
            # A host that joins later has them too, also after a restart.
            with one(cluster, third) as late:
                wait_for(lambda: len(forwarded(late)) == 3, "the forwards")
                wait_for(lambda: transferred(third, 8080) == [], "the way to the guest", 30.0)
                rows = [line.split() for line in asked(third, cluster, "forwards").splitlines()[1:]]
                assert rows[2] == ["udp", "127.0.0.1:8082", f"{address}:{UDP_ECHO}", "host1"]
                late.restart()
                assert len(forwarded(late)) == 3
                wait_for(lambda: transferred(third, 8080) == [], "the way after a restart", 30.0)
                asked(first, cluster, "unexpose", ":8080", "8082/udp")
                for daemon in (*daemons, late):
                    wait_for(lambda daemon=daemon: forwarded(daemon) == ["127.0.0.1:8081"], "they are closed")


def test_a_forward_reaches_a_guest_that_has_moved_and_guests_only(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    mac = "5a:94:ef:e4:0d:77"
    with NatsCluster(fleet.hosts[:1]) as cluster, contextlib.ExitStack() as stack:
        daemons = []
        for host, tap in zip(
            fleet.hosts, (first.tap(), second.tap(mac=mac), third.tap(mac=mac)), strict=True
        ):
            words = (*host.fleet_link(), *tap, "-fleet", cluster.url, "-fleet-host", f"host{host.number}")
            daemons.append(stack.enter_context(Daemon(host, *words)))
            wait_for(lambda daemon=daemons[-1]: daemon.events(REACHED), "the cluster", 30.0)
        third.guest.ip("link", "set", "eth0", "down")
        address = dhcp(second)
        assert address
        asked(third, cluster, "expose", f"8080:{address}:{DATA}")
        for daemon in daemons:
            wait_for(lambda daemon=daemon: forwarded(daemon), "the forward")
        with serving(second.guest, second):
            for host in fleet.hosts:
                assert transferred(host, 8080) == []
        second.guest.ip("link", "set", "eth0", "down")
        third.guest.ip("link", "set", "eth0", "up")
        assert dhcp(third) == address
        with serving(third.guest, third):
            for host in fleet.hosts:
                wait_for(lambda host=host: transferred(host, 8080) == [], "the new place", 30.0)
        # Nobody but the host itself uses its address among guests.
        assert [dropped(daemon, "vxlan_packet_dropped_not_for_host") for daemon in daemons] == [0, 0, 0]
