"""Kernel guests on one network: what one of them cannot do to others, and what each may still do.

The frames of the attempts are in tests/support/attempts.py. They leave the thief's own card.
"""

import contextlib
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.wire import arp, ethernet, ip
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, GUEST_MAC, Agent, run_client
from tests.support.attempts import Station, arp_frame, attempts, evasions, ping
from tests.support.daemon import Daemon
from tests.support.netns import (
    INTERNET_ADDR,
    Namespace,
    Network,
    leftovers,
    new_shared_memory,
    shared_memory,
    wait_for,
)
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
MACS = (GUEST_MAC, "5a:94:ef:e4:0c:98", "5a:94:ef:e4:0c:99")
ADDRS = (GUEST_ADDR, "192.168.127.3", "192.168.127.4")
VICTIM, THIRD, THIEF = (
    Station(bytes.fromhex(mac.replace(":", "")), ip.parse_ipv4(addr))
    for mac, addr in zip(MACS, ADDRS, strict=True)
)
GATEWAY_MAC = "5a:94:ef:e4:0c:dd"
VIRTUAL_ADDR = "192.168.127.77"
PLACEMENTS = ("separate", "auto")
RATE = 200
"""Frames a second of a thief that does not give up."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Namespaces for three guests."""
    before = shared_memory()
    with Network(guest_count=3) as made:
        yield made
    assert leftovers() == []
    assert not new_shared_memory(before)


class Guests:
    """A daemon with three guests: the victim, a third one, and the thief."""

    def __init__(self, daemon: Daemon, agents: list[Agent]) -> None:
        self.daemon = daemon
        self.agents = agents
        self.victim, self.third, self.thief = (agent.guest for agent in agents)

    def counted(self, name: str) -> int:
        """A counter of demux."""
        return sum(self.daemon.gauge(name).values())


@contextlib.contextmanager
def guests_of(network: Network, *flags: str) -> Iterator[Guests]:
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(network, *flags))
        agents = [
            stack.enter_context(Agent(guest, daemon.socket, mac=mac))
            for guest, mac in zip(network.guests, MACS, strict=True)
        ]
        for agent in agents:
            # Each has shown its address.
            agent.guest.run("ping", "-n", "-c", "1", "-W", "2", GATEWAY_ADDR)
        yield Guests(daemon, agents)


@pytest.fixture(params=PLACEMENTS)
def guarded(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Guests]:
    with guests_of(network, "-placement", request.param) as made:
        yield made


@pytest.fixture
def isolated(network: Network, outside: Servers) -> Iterator[Guests]:
    with guests_of(network, "-guests", "isolated") as made:
        yield made


@pytest.fixture
def unguarded(network: Network, outside: Servers) -> Iterator[Guests]:
    with guests_of(network, "-guests", "open") as made:
        yield made


class Card:
    """The card of a guest: frames as they are, out and in."""

    def __init__(self, guest: Namespace, interface: str = "tap0") -> None:
        def inside() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            made.bind((interface, 3))
            made.settimeout(0.2)
            return made

        self.sock = guest.call(inside)

    def send(self, *frames: bytes) -> None:
        """Send frames."""
        for frame in frames:
            self.sock.send(frame)

    def received(self, last: bytes = b"", seconds: float = 5.0) -> list[bytes]:
        """What came in, up to a frame that has ``last`` in it; without it, until nothing more comes."""
        found: list[bytes] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                frame, about = self.sock.recvfrom(70000)
            except TimeoutError:
                if not last:
                    break
                continue
            if about[2] != socket.PACKET_OUTGOING:
                found.append(frame)
                if last and last in frame:
                    return found
        assert not last, "the last frame did not come"
        return found

    def __enter__(self) -> "Card":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def neighbour(guest: Namespace, addr: str) -> str:
    """The MAC that a guest's kernel has for an address."""
    shown = guest.run("ip", "neigh", "show", addr, "dev", "tap0").stdout
    found = re.search(r"lladdr (\S+)", shown)
    return found[1] if found else ""


@contextlib.contextmanager
def repeated(card: Card, *frames: bytes) -> Iterator[None]:
    """The frames leave the card again and again, until the block ends."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(1 / RATE):
            card.send(*frames)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- guarded ------------------------------------------------------------------------------


def test_no_attempt_reaches_another_guest_and_each_is_counted_and_reported_once(guarded: Guests) -> None:
    made = attempts(THIEF, VICTIM, THIRD) + evasions(THIEF, VICTIM)
    before = {attempt.cause: guarded.counted(attempt.cause) for attempt in made}
    with Card(guarded.thief) as thief, Card(guarded.victim) as victim:
        for _ in range(5):
            thief.send(*[attempt.frame for attempt in made])
        thief.send(ping(THIEF.addr, VICTIM.addr, THIEF.mac, VICTIM.mac) + b"the last one")
        got = victim.received(b"the last one")
    # Without the first tag, which ingress removes.
    tails = [(attempt.frame[6:12], attempt.frame[18:]) for attempt in made]
    arrived = [
        attempt.name
        for attempt, (src, tail) in zip(made, tails, strict=True)
        if any(frame[6:12] == src and tail in frame for frame in got[:-1])
    ]
    assert arrived == []
    for cause, count in before.items():
        wanted = count + 5 * sum(attempt.cause == cause for attempt in made)
        wait_for(lambda cause=cause, wanted=wanted: guarded.counted(cause) >= wanted, cause)
    lines = guarded.daemon.events("guest frame refused")
    causes = [(line["link"], line["cause"]) for line in lines]
    assert len(causes) == len(set(causes)) == 5
    assert {line["mac"] for line in lines} == {MACS[2]}
    assert len(guarded.daemon.events("gateway mac claimed")) == 1
    assert len(guarded.daemon.events("address contested")) == 2
    assert len([line for line in guarded.daemon.events("guest mac") if line["change"] == "contested"]) == 1
    # And the victim's kernel believes none of it.
    guarded.victim.run("ping", "-n", "-c", "1", "-W", "2", ADDRS[1])
    assert neighbour(guarded.victim, GATEWAY_ADDR) == GATEWAY_MAC
    assert neighbour(guarded.victim, ADDRS[1]) == MACS[1]
    assert "default via" not in guarded.victim.run("ip", "-6", "route").stdout


def test_a_guest_whose_mac_and_address_are_claimed_all_the_time_loses_nothing(guarded: Guests) -> None:
    stolen = [
        arp_frame(arp.REPLY, VICTIM, VICTIM.mac, ethernet.BROADCAST, VICTIM.addr),
        ping(THIEF.addr, ip.parse_ipv4(GATEWAY_ADDR), VICTIM.mac, bytes.fromhex("5a94efe40cdd")),
        arp_frame(arp.REPLY, (THIEF.mac, VICTIM.addr), THIEF.mac, ethernet.BROADCAST, VICTIM.addr),
    ]
    with Card(guarded.thief) as thief:
        with repeated(thief, *stolen):
            found = guarded.agents[0].run("transfer", INTERNET_ADDR, DATA, 16 * MIB, 16 * MIB)
            assert found["errors"] == []
            done = guarded.third.run("ping", "-n", "-i", "0.1", "-c", "20", "-W", "1", GUEST_ADDR)
        assert " 0% packet loss" in done.stdout
        to_victim = [frame for frame in thief.received() if frame[:6] == VICTIM.mac]
    assert to_victim == []
    assert guarded.counted("switch_mac_moved") == 0
    wait_for(lambda: guarded.counted("switch_frame_dropped_moving_source") > RATE, "claims are counted")


def test_guests_still_reach_each_other_and_hear_each_others_broadcasts(guarded: Guests) -> None:
    for receiver in ADDRS[:2]:
        guarded.thief.run("ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", receiver)
    with Card(guarded.victim) as victim, Card(guarded.third) as third:
        frame = arp_frame(arp.REQUEST, THIRD, THIRD.mac, ethernet.BROADCAST, VICTIM.addr + 60)
        third.send(frame)
        assert frame in victim.received(frame)


# --- isolated and open --------------------------------------------------------------------


def test_isolated_guests_see_nothing_of_each_other_and_reach_everything_else(isolated: Guests) -> None:
    with Card(isolated.thief) as thief, Card(isolated.victim) as victim:
        for attempt in attempts(THIEF, VICTIM, THIRD):
            thief.send(attempt.frame, ethernet.BROADCAST + attempt.frame[6:])
        isolated.thief.run("ping", "-n", "-c", "1", "-W", "1", GUEST_ADDR, check=False)
        command = ("ip", "neigh", "replace", GUEST_ADDR, "lladdr", GUEST_MAC, "dev", "tap0")
        isolated.thief.run(*command)
        done = isolated.thief.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", GUEST_ADDR, check=False)
        assert " 0 received" in done.stdout
        macs = {station.mac for station in (THIEF, THIRD)}
        assert [frame for frame in victim.received() if frame[6:12] in macs] == []
    wait_for(lambda: isolated.counted("switch_frame_dropped_isolated") >= 2, "they are counted")
    for agent in isolated.agents:
        assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
        agent.guest.run("ping", "-n", "-c", "1", "-W", "2", GATEWAY_ADDR)


def test_open_guests_are_what_the_original_has_and_believe_a_thief(unguarded: Guests) -> None:
    claim = arp_frame(arp.REPLY, (THIEF.mac, ip.parse_ipv4(GATEWAY_ADDR)), THIEF.mac, VICTIM.mac, 0)
    with Card(unguarded.thief) as thief:
        for _ in range(3):
            # The kernel does not change an entry that is younger than a second.
            time.sleep(1.1)
            thief.send(claim)
        wait_for(lambda: neighbour(unguarded.victim, GATEWAY_ADDR) == MACS[2], "the kernel believes it")
        thief.send(arp_frame(arp.REQUEST, (VICTIM.mac, 0), VICTIM.mac, ethernet.BROADCAST, 1))
    wait_for(lambda: unguarded.counted("switch_mac_moved"), "the newest frame wins")


# --- what keeps working -------------------------------------------------------------------


@contextlib.contextmanager
def station_behind(guest: Namespace, addr: str) -> Iterator[Namespace]:
    """A second station on a bridge of the guest, whose first port is the guest's card."""
    station = Namespace(f"{guest.name}s")
    try:
        guest.ip("link", "add", "br0", "type", "bridge")
        guest.ip("link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", station.name)
        for port in ("tap0", "veth0"):
            guest.ip("link", "set", port, "master", "br0")
            guest.ip("link", "set", port, "up")
        guest.ip("link", "set", "br0", "up")
        station.ip("address", "add", f"{addr}/24", "dev", "eth0")
        station.ip("link", "set", "eth0", "up")
        station.ip("route", "add", "default", "via", GATEWAY_ADDR)
        yield station
    finally:
        for name in ("br0", "veth0"):
            with contextlib.suppress(subprocess.CalledProcessError):
                guest.ip("link", "del", name)
        station.close()


def test_two_stations_on_a_bridge_behind_one_link_work_side_by_side(guarded: Guests) -> None:
    """The guest's own address moves to the bridge, as libvirt and lxd have it."""
    guest = guarded.third
    with station_behind(guest, VIRTUAL_ADDR) as station:
        guest.ip("address", "flush", "dev", "tap0")
        guest.ip("address", "add", f"{ADDRS[1]}/24", "dev", "br0")
        guest.ip("route", "replace", "default", "via", GATEWAY_ADDR)
        for namespace in (guest, station):
            for target in (GATEWAY_ADDR, GUEST_ADDR):
                namespace.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", target)
            assert run_client(namespace, "transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
        for target in (ADDRS[1], VIRTUAL_ADDR):
            guarded.victim.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", target)
        # One of them takes the other's address: that is their own affair.
        station.ip("address", "add", f"{ADDRS[1]}/32", "dev", "eth0")
        guest.ip("address", "flush", "dev", "br0")
        station.run("ping", "-n", "-c", "1", "-w", "3", "-I", ADDRS[1], GATEWAY_ADDR)
        assert guarded.counted("neighbor_claim_refused_address_taken") == 0
        guest.ip("address", "add", f"{ADDRS[1]}/24", "dev", "br0")
    guest.ip("address", "replace", f"{ADDRS[1]}/24", "dev", "tap0")
    guest.ip("route", "replace", "default", "via", GATEWAY_ADDR)


@pytest.mark.parametrize("virtual_mac", [False, True], ids=["plain", "virtual-mac"])
def test_a_vrrp_address_moves_to_the_guest_that_becomes_master(guarded: Guests, virtual_mac: bool) -> None:
    """As keepalived does it: the old master lets go of the address, the new one announces it once."""
    old, new, client = guarded.victim, guarded.third, guarded.thief
    mac = "00:00:5e:00:01:07"

    def become_master(guest: Namespace, own: Station) -> None:
        interface = "tap0"
        if virtual_mac:
            interface = "vrrp7"
            try:
                guest.ip("link", "add", interface, "link", "tap0", "address", mac, "type", "macvlan")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no macvlan: {error.stderr.strip()}")
            guest.ip("link", "set", interface, "up")
            # The virtual MAC alone speaks for the address, as VRRP wants it.
            settings = "/proc/sys/net/ipv4/conf/tap0"
            guest.run("sh", "-c", f"echo 1 > {settings}/arp_ignore; echo 2 > {settings}/arp_announce")
        guest.ip("address", "add", f"{VIRTUAL_ADDR}/32", "dev", interface)
        src = bytes.fromhex(mac.replace(":", "")) if virtual_mac else own.mac
        addr = ip.parse_ipv4(VIRTUAL_ADDR)
        with Card(guest) as card:
            card.send(arp_frame(arp.REPLY, (src, addr), src, ethernet.BROADCAST, addr))

    def resign(guest: Namespace) -> None:
        if virtual_mac:
            guest.ip("link", "del", "vrrp7")
        else:
            guest.ip("address", "del", f"{VIRTUAL_ADDR}/32", "dev", "tap0")

    become_master(old, VICTIM)
    client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", VIRTUAL_ADDR)
    resign(old)
    become_master(new, THIRD)
    client.run("ping", "-n", "-i", "0.1", "-c", "1", "-w", "4", VIRTUAL_ADDR)
    wait_for(lambda: neighbour(client, VIRTUAL_ADDR) == (mac if virtual_mac else MACS[1]), "the new MAC")
    resign(new)


def test_a_guest_comes_back_on_a_new_link_while_its_old_one_hangs(network: Network, outside: Servers) -> None:
    with guests_of(network) as guests:
        hung, _, _ = guests.agents
        hung.process.send_signal(signal.SIGSTOP)
        try:
            # The same machine in another namespace: its MAC, and the address that it had.
            room = Namespace(f"{network.guest.name}b")
            try:
                with Agent(room, guests.daemon.socket) as back:
                    assert back.wait_for_address() == f"{GUEST_ADDR}/24"
                    assert back.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
                    guests.third.run("ping", "-n", "-c", "1", "-w", "4", GUEST_ADDR)
                    assert guests.counted("switch_mac_moved") == 1
            finally:
                room.close()
        finally:
            hung.process.send_signal(signal.SIGCONT)
