"""Taps that the daemon opens in the guests' namespaces: traffic, MTUs, and the end of a namespace."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.config.subnet import MAX_MTU
from pipeline.system.tap import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, Tap
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, run_client
from tests.support.daemon import Daemon, program
from tests.support.netns import INTERNET_ADDR, Namespace, Network, wait_for
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20


def link(guest: Namespace, more: str = "") -> tuple[str, str]:
    return "-link", f"tap+eth0?netns={guest.name}{more}"


def configure(guest: Namespace, address: str = GUEST_ADDR) -> None:
    guest.ip("address", "add", f"{address}/24", "dev", "eth0")
    guest.ip("route", "add", "default", "via", GATEWAY_ADDR)


def macs(daemon: Daemon) -> set[str]:
    return set(json.loads(daemon.api("/cam")[1]))


@contextlib.contextmanager
def extra_namespace(network: Network) -> Iterator[Namespace]:
    """A namespace that a test may delete."""
    made = Namespace(f"{network.guest.name}-gone")
    try:
        yield made
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            made.close()


def test_a_guest_with_two_mtus_moves_data_and_pings(network: Network, outside: Servers) -> None:
    for mtu in (1500, 65520):
        with Daemon(network, *link(network.guest), "-mtu", str(mtu)) as daemon:
            configure(network.guest)
            network.guest.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", GATEWAY_ADDR)
            moved = run_client(network.guest, "transfer", INTERNET_ADDR, DATA, 16 * MIB, 16 * MIB)
            assert moved["errors"] == []
            assert run_client(network.guest, "udp", INTERNET_ADDR, UDP_ECHO, 1400, 20)["received"] == 20
            shown = network.guest.run("ip", "link", "show", "eth0").stdout
            assert f"mtu {mtu}" in shown
            # Each way 32 MiB would be more than 23000 frames of 1514 bytes.
            assert sum(daemon.gauge("link_frames_from_guest").values()) < 15000
            assert sum(daemon.gauge("link_frames_to_guest").values()) < 15000
            assert sum(daemon.gauge("link_frame_dropped_bad_vnet_header").values()) == 0
        assert "eth0" not in network.guest.run("ip", "-o", "link").stdout, "the tap went with the daemon"


def test_a_guest_gets_its_address_by_dhcp(network: Network, outside: Servers) -> None:
    mac = "5a:94:ef:e4:0c:ee"
    with Daemon(network, *link(network.guest, f"&mac={mac}")):
        client = [sys.executable, "-m", "guest.dhcp_client", "-i", "eth0", "-resolv-conf", "none"]
        process = network.guest.popen(client)
        wait_for(
            lambda: GUEST_ADDR in network.guest.run("ip", "address", "show", "eth0").stdout, "an address", 10
        )
        assert run_client(network.guest, "udp", INTERNET_ADDR, UDP_ECHO, 100, 3)["received"] == 3
        process.terminate()
        process.wait(5)


def test_two_taps_reach_each_other(network: Network) -> None:
    with extra_namespace(network) as other, Daemon(network, *link(network.guest), *link(other)):
        configure(network.guest)
        configure(other, "192.168.127.9")
        other.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", GUEST_ADDR)


def test_a_namespace_that_ends_ends_the_link_alone(network: Network, outside: Servers) -> None:
    with extra_namespace(network) as gone, Daemon(network, *link(network.guest), *link(gone)) as daemon:
        configure(gone, "192.168.127.9")
        configure(network.guest)
        gone.run("ping", "-n", "-c", "1", "-W", "3", GATEWAY_ADDR)
        gone.close()
        wait_for(lambda: daemon.events("guest disconnected"), "the end of the link")
        (event,) = daemon.events("guest disconnected")
        assert "network namespace ended" in event["error"]
        assert run_client(network.guest, "udp", INTERNET_ADDR, UDP_ECHO, 100, 3)["received"] == 3


def test_an_interface_that_exists_is_opened_and_stays(network: Network, outside: Servers) -> None:
    guest = network.guest
    guest.ip("tuntap", "add", "eth0", "mode", "tap")
    try:
        guest.ip("link", "set", "eth0", "up")
        configure(guest)
        for _ in range(2):
            with Daemon(network, *link(guest)):
                assert run_client(guest, "transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
    finally:
        guest.ip("link", "del", "eth0")


@pytest.mark.parametrize("header", [IFF_VNET_HDR, 0], ids=["headers", "plain"])
def test_a_tap_that_a_parent_has_opened_is_the_guest(network: Network, outside: Servers, header: int) -> None:
    guest = network.guest
    tap = guest.call(lambda: Tap.open("eth0", IFF_TAP | IFF_NO_PI | header))
    guest.ip("link", "set", "eth0", "up")
    configure(guest)
    daemon = Daemon(network, "-link", f"tap+fd://{tap.fd}", name="passed-tap")
    with daemon.log_path.open("wb") as log:
        process = network.host.popen(
            [*program(), "start", *daemon.flags], stdout=log, stderr=log, pass_fds=[tap.fd]
        )
    tap.close()
    try:
        wait_for(lambda: daemon.events("guest connected"), "the guest is there")
        assert run_client(guest, "transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
    finally:
        process.terminate()
        assert process.wait(5) == 0
    assert "eth0" not in guest.run("ip", "-o", "link").stdout, "the tap went with the daemon"


def test_a_descriptor_that_is_no_tap_stops_the_start(network: Network) -> None:
    with open("/dev/null", "rb") as other:
        number = other.fileno()
        daemon = Daemon(network, "-link", f"tap+fd://{number}", name="no-tap")
        process = network.host.popen(
            [*program(), "start", *daemon.flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[number],
        )
        said = process.communicate(timeout=10)[0]
    assert process.returncode == 1
    assert f"link tap+fd://{number}: the descriptor is not that of a tap" in said


def test_frames_to_a_tap_that_is_down_are_counted(network: Network) -> None:
    guest = network.guest
    with extra_namespace(network) as other, Daemon(network, *link(guest), *link(other)) as daemon:
        configure(guest)
        guest.ip("link", "set", "eth0", "down")
        configure(other, "192.168.127.9")
        other.run("ping", "-n", "-c", "1", "-W", "1", GUEST_ADDR, check=False)
        wait_for(lambda: sum(daemon.gauge("link_frame_dropped_refused").values()), "a lost frame")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("eth0?netns=nosuch", "/run/netns/nosuch: no such file or directory"),
        ("eth0?netns=/dev/null", "/dev/null is not a network namespace"),
        ("lo?netns=GUEST", "an interface of this name is there, and it is not a tap"),
    ],
)
def test_a_tap_that_cannot_be_opened_is_named(network: Network, where: str, words: str) -> None:
    place = where.replace("GUEST", network.guest.name)
    done = network.host.run(
        *program(), "start", "-link", f"tap+{place}", "-ssh-port", "-1", check=False, timeout=20
    )
    assert done.returncode == 1
    assert f"link tap+{place}: " in done.stderr
    assert words in done.stderr


def test_the_largest_mtu_is_that_of_a_tap(network: Network) -> None:
    with Daemon(network, *link(network.guest), "-mtu", str(MAX_MTU)):
        assert f"mtu {MAX_MTU}" in network.guest.run("ip", "link", "show", "eth0").stdout
