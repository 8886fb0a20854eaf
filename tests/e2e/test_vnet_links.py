"""Guests whose virtio-net headers arrive with their frames (libkrun's NET_FLAG_INCLUDE_VNET_HEADER).

The far end is a kernel's tap with IFF_VNET_HDR (tests.support.headers), on each kind of socket that may have
the option ``vnet``.
"""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.wire import virtio_net
from pipeline.wire.offload import CSUM, TSO4, TSO6
from pipeline.wire.virtio_net import GSO_TCPV4, GSO_UDP, LONG_LEN, NEEDS_CSUM, Header
from tests.e2e.test_offload import checksum_errors, total
from tests.e2e.test_stripped import MAX_FRAME, WRONG, shown
from tests.support import dual_stack
from tests.support.agent import Agent, address
from tests.support.daemon import Daemon, program
from tests.support.headers import Headers
from tests.support.netns import (
    INTERNET_ADDR,
    INTERNET_ADDR6,
    Namespace,
    Network,
    add_ipv6,
    leftovers,
    wait_for,
)
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
LONG_DATAGRAM = 20000
ALL = CSUM | TSO4 | TSO6
OTHER = {"address": "192.168.127.9", "mac": "5a:94:ef:e4:0c:99"}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two guests, and an internet with IPv6."""
    with Network(guest_count=2) as made:
        add_ipv6(made)
        yield made
    assert leftovers() == []


@pytest.fixture(scope="module")
def outside(network: Network) -> Iterator[Servers]:
    with dual_stack.servers(network) as servers:
        yield servers


@pytest.fixture(scope="module")
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    """One daemon with a socket for each kind of link."""
    folder = network.directory
    links = (
        f"vfkit+unixgram://{folder}/all.sock?vnet",
        f"vfkit+unixgram://{folder}/some.sock?vnet=csum,tso4",
        f"vfkit+unixgram://{folder}/none.sock?vnet=none",
        f"qemu+unix://{folder}/stream.sock?vnet",
        f"fd+unix://{folder}/fd.sock?vnet",
    )
    flags = [word for link in links for word in ("-link", link)]
    with Daemon(network, *flags, "-ipv6", "on") as made:
        yield made
        assert total(made, "tcp_segment_dropped_bad_checksum") == 0
        assert total(made, "link_frame_dropped_bad_vnet_header") == 0


@pytest.fixture
def folder(network: Network) -> Path:
    return network.directory


@contextmanager
def guest(network: Network, kind: str, name: str, features: int = ALL) -> Iterator[Headers]:
    """The first guest, on a socket of the daemon."""
    with Headers(network.guest, kind, network.directory / name, network.directory, features) as made:
        yield made


def has_ipv6(namespace: Namespace) -> bool:
    """Whether a guest has an address and a route."""
    routes = namespace.run("ip", "-6", "route", "show", "default").stdout
    shown_ = namespace.run("ip", "-6", "address", "show", "scope", "global", "dev", "tap0").stdout
    return "default" in routes and "inet6" in shown_ and "tentative" not in shown_


def move(one: Headers, *addresses: str) -> None:
    """Move data in both directions, and check the hashes. Then datagrams of all sizes."""
    for there in addresses:
        assert one.run("transfer", there, DATA, 8 * MIB, 8 * MIB)["errors"] == []
        for size in (64, 1400, LONG_DATAGRAM):
            assert one.run("udp", there, UDP_ECHO, size, 3)["received"] == 3
    assert checksum_errors(one.guest) == 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("vfkit", "all.sock"),
        ("qemu", "stream.sock"),
        ("fd-stream", "fd.sock"),
        ("fd-packets", "fd.sock"),
        ("fd-datagrams", "fd.sock"),
    ],
)
def test_super_segments_cross_every_kind_of_link_in_both_directions(
    network: Network, daemon: Daemon, kind: str, name: str
) -> None:
    with guest(network, kind, name) as one:
        wait_for(lambda: has_ipv6(one.guest), "an IPv6 address", 10)
        move(one, INTERNET_ADDR, INTERNET_ADDR6)
    counts = one.counts
    # 8 MiB in frames of an MTU would be some 6000 frames.
    for way in ("up tcp4", "down tcp4", "up tcp6", "down tcp6"):
        assert 100 < counts[way] < 3000, counts
    assert counts["up none"] + counts["down none"] < 6000
    assert counts["up ufo"] == 3, "the long datagrams over IPv4"
    assert "down ufo" not in counts
    assert "down long" not in counts
    daemon.wait_for_free_slots()


def test_a_guest_without_tso6_gets_frames_that_are_cut(network: Network, daemon: Daemon) -> None:
    with guest(network, "vfkit", "some.sock", CSUM | TSO4) as one:
        wait_for(lambda: has_ipv6(one.guest), "an IPv6 address", 10)
        move(one, INTERNET_ADDR, INTERNET_ADDR6)
    assert one.counts["down tcp4"] > 100
    assert "down tcp6" not in one.counts
    assert "up tcp6" not in one.counts
    assert one.counts["down none"] > 8 * MIB // 1460
    assert "down long" not in one.counts


def test_a_guest_that_takes_nothing_gets_whole_frames_with_whole_checksums(
    network: Network, daemon: Daemon
) -> None:
    with guest(network, "vfkit", "none.sock", 0) as one:
        move(one, INTERNET_ADDR)
    assert {name for name, count in one.counts.items() if count} <= {
        "up none",
        "down none",
        "up ufo",
        "up partial",
    }
    assert one.counts["up partial"] == one.counts["up ufo"]


def test_guests_with_and_without_headers_reach_each_other(
    network: Network, daemon: Daemon, folder: Path
) -> None:
    with (
        guest(network, "vfkit", "all.sock") as one,
        Agent(network.guests[1], daemon.socket, "-offload=false", mac=OTHER["mac"]) as plain,
    ):
        servers = Servers(plain.guest, folder)
        try:
            move(one, address(plain.guest).partition("/")[0])
        finally:
            servers.close()
        assert checksum_errors(plain.guest) == 0
    with (
        guest(network, "qemu", "stream.sock") as one,
        Headers(network.guests[1], "vfkit", folder / "all.sock", folder, **OTHER) as two,
    ):
        servers = Servers(two.guest, folder)
        try:
            move(one, OTHER["address"])
        finally:
            servers.close()
        assert checksum_errors(two.guest) == 0
    assert min(one.counts["up tcp4"], one.counts["down tcp4"], two.counts["down tcp4"]) > 100


def test_a_datagram_pair_passed_with_fd_is_the_only_guest(network: Network, outside: Servers) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    daemon = Daemon(network, "-link", f"vfkit+fd://{ours.fileno()}?vnet", name="pair")
    with daemon.log_path.open("wb") as log:
        process = network.host.popen(
            [*program(), "start", *daemon.flags], stdout=log, stderr=log, pass_fds=[ours.fileno()]
        )
    ours.close()
    wait_for(lambda: daemon.events("guest connected"), "the guest is there")
    with Headers(network.guest, "inherited", theirs.fileno(), network.directory) as one:
        theirs.close()
        move(one, INTERNET_ADDR)
    assert min(one.counts["up tcp4"], one.counts["down tcp4"]) > 100
    wait_for(lambda: daemon.events("guest disconnected"), "its end is noticed", 15)
    assert process.poll() is None
    process.terminate()
    assert process.wait(5) == 0


def test_a_guest_that_lies_in_its_headers_costs_counters_alone(
    network: Network, outside: Servers, folder: Path
) -> None:
    path = folder / "liar.sock"
    lies = [
        b"\xff" * 11,
        b"\xff" * 12 + bytes(60),
        b"\x01\x01" + bytes(10) + bytes(60),
        virtio_net.build(Header(NEEDS_CSUM, GSO_UDP, 42, 1, 34, 6, 0), LONG_LEN) + bytes(60000),
        virtio_net.build(Header(NEEDS_CSUM, GSO_TCPV4, 54, 1448, 65535, 65535, 0), LONG_LEN) + bytes(60),
    ]
    with (
        Daemon(network, "-link", f"bess+unixpacket://{path}?vnet", name="lied-to") as daemon,
        Agent(network.guests[1], daemon.socket, mac=OTHER["mac"]) as honest,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as liar,
    ):
        liar.connect(str(path))
        for lie in lies * 50:
            liar.send(lie)
        wait_for(
            lambda: total(daemon, "link_frame_dropped_bad_vnet_header") == 250, "the lies are counted", 20
        )
        assert honest.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
        assert not daemon.events("guest disconnected")


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_a_capture_shows_the_frames_of_a_wire(network: Network, outside: Servers, folder: Path) -> None:
    path = folder / "vnet.pcap"
    flags = ("-link", f"vfkit+unixgram://{folder}/wire.sock?vnet", "-pcap", str(path))
    with Daemon(network, *flags, name="captured"), guest(network, "vfkit", "wire.sock") as one:
        move(one, INTERNET_ADDR)
    assert one.counts["up tcp4"]
    assert max(int(size) for size in shown(path, "frame", "frame.len")) == MAX_FRAME
    assert shown(path, WRONG) == []
    assert len(shown(path, "ip.flags.mf == 1 and ip.src == 192.168.127.2")) == 3 * (LONG_DATAGRAM // 1480)
