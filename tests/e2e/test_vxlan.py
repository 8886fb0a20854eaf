"""Guests of several hosts in one network: daemons in namespaces of their own, and Linux's vxlan device."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from pipeline.wire import ethernet, vxlan
from tests.support.agent import GATEWAY_ADDR, run_client
from tests.support.daemon import Daemon
from tests.support.fleet import VNI, Fleet, FleetHost, host_addr
from tests.support.netns import Namespace, leftovers, wait_for
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
PORT = vxlan.PORT


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three hosts with one guest each."""
    with Fleet(3) as made:
        yield made
    assert leftovers() == []


def guest_addr(host: FleetHost) -> str:
    return f"192.168.127.{10 + host.number}"


@contextlib.contextmanager
def running(*hosts: FleetHost, flags: tuple[str, ...] = ()) -> Iterator[list[Daemon]]:
    """A daemon and a guest on each host. All hosts know each other."""
    with contextlib.ExitStack() as stack:
        numbers = [host.number for host in hosts]
        yield [
            stack.enter_context(one(host, *(each for each in numbers if each != host.number), flags=flags))
            for host in hosts
        ]


@contextlib.contextmanager
def one(host: FleetHost, *others: int, flags: tuple[str, ...] = ()) -> Iterator[Daemon]:
    with Daemon(host, *host.link(*others), *host.tap(), *flags) as daemon:
        configure(host.guest, guest_addr(host))
        yield daemon


def configure(guest: Namespace, address: str) -> None:
    guest.ip("address", "add", f"{address}/24", "dev", "eth0")
    guest.ip("route", "add", "default", "via", GATEWAY_ADDR)


@contextlib.contextmanager
def kernel_guest(host: FleetHost, *others: int) -> Iterator[Namespace]:
    """A guest whose interface is the vxlan device of a host without a daemon."""
    guest = host.guest
    host.host.ip(
        *("link", "add", "eth0", "type", "vxlan", "id", str(VNI), "dstport", str(PORT)),
        *("local", host_addr(host.number)),
    )
    try:
        for other in others:
            everyone = ("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "eth0")
            host.host.run(*everyone, "dst", host_addr(other))
        host.host.ip("link", "set", "eth0", "netns", guest.name)
        guest.ip("link", "set", "eth0", "mtu", "1450", "up")
        guest.ip("address", "add", f"{guest_addr(host)}/24", "dev", "eth0")
        yield guest
    finally:
        guest.ip("link", "del", "eth0")


def ping(guest: Namespace, address: str, *words: str, count: int = 2) -> str:
    argv = ("ping", "-n", "-c", str(count), "-i", "0.2", "-W", "2", *words, address)
    return guest.run(*argv, check=False).stdout


def reaches(guest: Namespace, address: str, *words: str) -> bool:
    return " 0% packet loss" in ping(guest, address, *words)


def dropped(daemon: Daemon, name: str) -> float:
    return sum(daemon.gauge(name).values())


@contextlib.contextmanager
def serving(guest: Namespace, host: FleetHost, address: str = "0.0.0.0") -> Iterator[None]:
    servers = Servers(guest, host.directory, address)
    try:
        yield
    finally:
        servers.close()


def test_guests_of_two_hosts_ping_and_move_data(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with running(first, second) as daemons, serving(second.guest, second):
        assert "mtu 1450" in first.guest.run("ip", "link", "show", "eth0").stdout
        assert reaches(first.guest, guest_addr(second), "-M", "do", "-s", "1422")
        assert reaches(first.guest, GATEWAY_ADDR)
        moved = run_client(first.guest, "transfer", guest_addr(second), DATA, 16 * MIB, 16 * MIB)
        assert moved["errors"] == []
        assert run_client(first.guest, "udp", guest_addr(second), UDP_ECHO, 1300, 20)["received"] == 20
        answer = run_client(first.guest, "resolve", GATEWAY_ADDR, "gateway.containers.internal.", "A", "udp")
        assert answer["rcode"] == "NOERROR"
        for daemon in daemons:
            # 16 MiB are 12000 frames of 1464 bytes.
            assert dropped(daemon, "link_frames_to_guest") < 10000, "segments travel together"
            for name in ("unknown_source", "truncated", "no_vni", "wrong_vni"):
                assert dropped(daemon, f"vxlan_datagram_dropped_{name}") == 0
            for name in ("no_room", "too_long", "unreachable", "backlog_full"):
                assert dropped(daemon, f"vxlan_frame_dropped_{name}") == 0


def exchange_trains(first: FleetHost, second: FleetHost, daemons: list[Daemon]) -> None:
    """Move data until both daemons have sent packets in one piece, and check that none was lost."""

    def sent() -> bool:
        moved = run_client(first.guest, "transfer", guest_addr(second), DATA, 8 * MIB, 8 * MIB)
        assert moved["errors"] == []
        return all(dropped(each, "vxlan_trains_sent") > 50 for each in daemons)

    wait_for(sent, "both hosts know that the other one understands trains", 30.0)
    for daemon, other in (daemons, daemons[::-1]):
        assert dropped(daemon, "vxlan_trains_received") == dropped(other, "vxlan_trains_sent")
        assert dropped(daemon, "vxlan_frame_dropped_incomplete") == 0
        assert dropped(daemon, "vxlan_datagram_dropped_malformed") == 0
        assert dropped(daemon, "link_frame_dropped_bad_vnet_header") == 0


def test_packets_cross_between_two_daemons_in_one_piece(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with running(first, second) as daemons, serving(second.guest, second):
        exchange_trains(first, second, daemons)
        # A narrower path: the next trains have shorter datagrams, and more than one call each.
        # Both ends have to know: a veth drops what is too long for the other end, and tells nobody.
        for host in (first.host, second.host):
            host.ip("link", "set", "veth0", "mtu", "1400")
        try:
            before = dropped(daemons[0], "vxlan_trains_sent")
            moved = run_client(first.guest, "transfer", guest_addr(second), DATA, 8 * MIB, 8 * MIB)
            assert moved["errors"] == []
            assert dropped(daemons[0], "vxlan_trains_sent") > before
        finally:
            for host in (first.host, second.host):
                host.ip("link", "set", "veth0", "mtu", "1500")


def test_hosts_may_be_joined_over_ipv6(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with (
        Daemon(first, *first.link(1, ipv6=True), *first.tap()),
        Daemon(second, *second.link(0, ipv6=True), *second.tap()),
        serving(second.guest, second),
    ):
        for host in (first, second):
            configure(host.guest, guest_addr(host))
        assert "mtu 1430" in first.guest.run("ip", "link", "show", "eth0").stdout
        assert reaches(first.guest, guest_addr(second), "-M", "do", "-s", "1402")
        moved = run_client(first.guest, "transfer", guest_addr(second), DATA, 4 * MIB, 4 * MIB)
        assert moved["errors"] == []


def test_a_kernel_guest_without_a_daemon_joins(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    with contextlib.ExitStack() as stack:
        daemons = []
        for host in (first, second):
            others = [each.number for each in fleet.hosts if each is not host]
            daemons.append(stack.enter_context(one(host, *others)))
        kernel = stack.enter_context(kernel_guest(third, first.number, second.number))
        stack.enter_context(serving(kernel, third))
        for host in (first, second):
            assert reaches(kernel, guest_addr(host))
            moved = run_client(host.guest, "transfer", guest_addr(third), DATA, 8 * MIB, 8 * MIB)
            assert moved["errors"] == []
        assert reaches(first.guest, guest_addr(second))
        # Both daemons asked the third host, which has never answered. With each other they have trains.
        assert [dropped(each, "vxlan_trains_sent") for each in daemons] == [0, 0]
        with serving(second.guest, second):
            exchange_trains(first, second, daemons)
        moved = run_client(first.guest, "transfer", guest_addr(third), DATA, 8 * MIB, 8 * MIB)
        assert moved["errors"] == []


def test_frames_of_one_host_never_go_to_another(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    with one(first, 1), one(second, 0, 2), one(third, 1):
        assert reaches(first.guest, guest_addr(second))
        assert reaches(second.guest, guest_addr(third))
        assert not reaches(first.guest, guest_addr(third))


def test_each_guest_gets_a_broadcast_once(fleet: Fleet) -> None:
    first, _, third = fleet.hosts
    with running(*fleet.hosts):
        sender = first.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver = third.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with sender, receiver:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            receiver.bind(("", 4000))
            receiver.settimeout(5.0)
            sender.sendto(b"hello", ("192.168.127.255", 4000))
            assert receiver.recv(100) == b"hello"
            receiver.settimeout(0.5)
            with pytest.raises(TimeoutError):
                receiver.recv(100)


def test_what_concerns_a_gateway_stays_on_its_host(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with running(first, second) as (here, there):
        # Nothing of the guest is known to its gateway any more.
        first.guest.ip("neigh", "flush", "dev", "eth0")
        assert reaches(first.guest, GATEWAY_ADDR)
        wait_for(lambda: dropped(here, "vxlan_frame_dropped_stays_here") > 0, "the question stays")
        assert reaches(first.guest, guest_addr(second))
        assert dropped(there, "vxlan_frame_dropped_gateway") == 0
        assert dropped(there, "icmp_echo_answered") == 0


def test_datagrams_that_may_not_pass_are_counted(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    frame = ethernet.header(ethernet.BROADCAST, b"\2" * 6, 0x1234) + bytes(50)
    with one(first, second.number) as daemon:
        where = host_addr(first.number), PORT
        stranger = fleet.wire.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        known = second.host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with stranger, known:
            stranger.sendto(vxlan.build(VNI) + frame, where)
            known.sendto(vxlan.build(VNI + 1) + frame, where)
            known.sendto(vxlan.build(VNI)[:5], where)
            known.sendto(bytes(8) + frame, where)
            for reason in ("unknown_source", "wrong_vni", "truncated", "no_vni"):
                wait_for(
                    lambda reason=reason: dropped(daemon, f"vxlan_datagram_dropped_{reason}") == 1, reason
                )


def test_packets_that_are_too_long_are_reported_to_their_sender(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with (
        running(first, second, flags=("-mtu", "1500", "-ipv6", "on")) as daemons,
        serving(second.guest, second),
    ):
        assert "mtu = 1450" in ping(first.guest, guest_addr(second), "-M", "do", "-s", "1472")
        assert dropped(daemons[0], "vxlan_packet_dropped_too_big") > 0
        assert reaches(first.guest, guest_addr(second), "-M", "do", "-s", "1422")
        moved = run_client(first.guest, "transfer", guest_addr(second), DATA, 4 * MIB, 4 * MIB)
        assert moved["errors"] == []
        (address,) = [
            word.partition("/")[0]
            for word in second.guest.run("ip", "-6", "-o", "address", "show", "dev", "eth0").stdout.split()
            if word.startswith("fe80")
        ]
        assert reaches(first.guest, f"{address}%eth0")
        assert "mtu=1450" in ping(first.guest, f"{address}%eth0", "-M", "do", "-s", "1452").replace(" ", "")


def test_a_path_that_becomes_narrower_is_noticed(fleet: Fleet) -> None:
    first, second, _ = fleet.hosts
    with running(first, second) as (here, _):
        assert reaches(first.guest, guest_addr(second), "-M", "do", "-s", "1422")
        first.host.ip("link", "set", "veth0", "mtu", "1400")
        try:
            wait_for(
                lambda: (
                    "mtu = 1350" in ping(first.guest, guest_addr(second), "-M", "do", "-s", "1422", count=1)
                ),
                "the new MTU",
            )
            (event,) = here.events("tunnel mtu")
            assert event["mtu"] == 1350
        finally:
            first.host.ip("link", "set", "veth0", "mtu", "1500")


def test_a_guest_that_moves_to_another_host_is_reached_there(fleet: Fleet) -> None:
    first, second, third = fleet.hosts
    mac = "5a:94:ef:e4:0d:77"
    moving = "192.168.127.77"
    with contextlib.ExitStack() as stack:
        for host in fleet.hosts:
            others = [each.number for each in fleet.hosts if each is not host]
            given = host.tap(mac=mac) if host is not first else host.tap()
            stack.enter_context(Daemon(host, *host.link(*others), *given))
        configure(first.guest, guest_addr(first))
        configure(second.guest, moving)
        # The third guest has the same MAC, and its first frames say that it is there.
        wait_for(lambda: reaches(first.guest, moving), "the guest is at its first place", 30.0)
        second.guest.ip("link", "set", "eth0", "down")
        configure(third.guest, moving)
        wait_for(lambda: reaches(third.guest, guest_addr(first)), "the guest is at its new place", 30.0)
        assert reaches(first.guest, moving)
