"""A guest that takes what is another's, and frames that are none: each told once and counted."""

import json
import socket
from collections.abc import Iterator

import pytest

from pipeline.wire import arp, ethernet, ip
from tests.support.agent import GUEST_ADDR, GUEST_MAC, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Namespace, wait_for
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
OTHER_MAC = "5a:94:ef:e4:0c:99"
OTHER_ADDR = "192.168.127.3"
GATEWAY_MAC = "5a:94:ef:e4:0c:dd"
GROUP = "224.0.0.251"


@pytest.fixture
def other(daemon: Daemon, agent: Agent) -> Iterator[Agent]:
    """A second guest."""
    with Agent(daemon.network.guests[1], daemon.socket, mac=OTHER_MAC) as made:
        yield made


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def send(guest: Namespace, *frames: bytes) -> None:
    """Frames as they are, out of the guest's card."""

    def inside() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("tap0", 0))
            for frame in frames:
                sock.send(frame)

    guest.call(inside)


def claim(src: str, addr: str) -> bytes:
    """A gratuitous ARP message: addr is at src."""
    own = ip.parse_ipv4(addr)
    return ethernet.header(ethernet.BROADCAST, mac(src), ethernet.TYPE_ARP) + arp.build(
        arp.REPLY, mac(src), own, ethernet.BROADCAST, own
    )


def counted(daemon: Daemon, name: str, worker: str = "demux") -> int:
    """A counter, once it is more than nothing."""
    return wait_for(lambda: daemon.gauge(name).get(worker), name)


def test_the_gateways_mac_cannot_be_taken(daemon: Daemon, agent: Agent, other: Agent) -> None:
    send(other.guest, *[claim(GATEWAY_MAC, OTHER_ADDR)] * 20)
    assert counted(daemon, "switch_frame_dropped_gateway_source") == 20
    (line,) = daemon.events("gateway mac claimed")
    assert line["level"] == "warning"
    assert GATEWAY_MAC not in json.loads(daemon.api("/cam")[1])
    agent.guest.run("ping", "-n", "-c", "1", "-W", "2", "192.168.127.1")


@pytest.mark.parametrize("addr", ["192.168.127.1", "192.168.127.254"])
def test_the_gateways_addresses_cannot_be_taken(
    daemon: Daemon, agent: Agent, other: Agent, addr: str
) -> None:
    send(other.guest, *[claim(OTHER_MAC, addr)] * 20)
    assert counted(daemon, "neighbor_claim_refused_gateway_address") == 20
    (line,) = daemon.events("address contested")
    assert (line["address"], line["owner"], line["claimant"]) == (addr, GATEWAY_MAC, OTHER_MAC)
    agent.guest.run("ping", "-n", "-c", "1", "-W", "2", addr)


def test_another_guests_address_cannot_be_taken_while_it_lives(
    daemon: Daemon, agent: Agent, other: Agent, outside: Servers
) -> None:
    # It has shown its address: until then nobody knows whose it is.
    agent.guest.run("ping", "-n", "-c", "1", "-W", "2", "192.168.127.1")
    send(other.guest, *[claim(OTHER_MAC, GUEST_ADDR)] * 20)
    assert counted(daemon, "neighbor_claim_refused_address_taken") == 20
    (line,) = daemon.events("address contested")
    assert (line["address"], line["owner"], line["claimant"]) == (GUEST_ADDR, GUEST_MAC, OTHER_MAC)
    assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []


def test_another_guests_mac_cannot_be_taken_while_it_lives(
    daemon: Daemon, agent: Agent, other: Agent, outside: Servers
) -> None:
    agent.guest.run("ping", "-n", "-c", "1", "-W", "2", "192.168.127.1")
    send(other.guest, claim(GUEST_MAC, "0.0.0.0"))
    assert counted(daemon, "switch_frame_dropped_moving_source") == 1
    contested = [line for line in daemon.events("guest mac") if line["change"] == "contested"]
    assert [(line["level"], line["mac"]) for line in contested] == [("warning", GUEST_MAC)]
    assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
    assert daemon.gauge("switch_mac_moved")["demux"] == 0


def test_broadcast_and_multicast_reach_the_other_guest(daemon: Daemon, agent: Agent, other: Agent) -> None:
    def listener() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", 5353))
        member = socket.inet_aton(GROUP) + socket.inet_aton(GUEST_ADDR)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.settimeout(5)
        return sock

    def sender() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(OTHER_ADDR))
        return sock

    with agent.guest.call(listener) as listening, other.guest.call(sender) as sending:
        for where in (GROUP, "192.168.127.255", "255.255.255.255"):
            sending.sendto(where.encode(), (where, 5353))
            data, peer = listening.recvfrom(100)
            assert (data.decode(), peer[0]) == (where, OTHER_ADDR)


def test_runts_cost_one_counter_and_giants_the_link(daemon: Daemon, agent: Agent) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.qemu_socket))
        for length in range(14):
            sock.sendall(length.to_bytes(4, "big") + bytes(length))
        wait_for(lambda: sum(daemon.gauge("link_frame_dropped_runt").values()) == 14, "runts are counted", 4)
        sock.sendall((131073).to_bytes(4, "big") + bytes(100))
        sock.settimeout(5)
        # The other guest's kernel may have sent something to everybody before the link ended.
        while sock.recv(4096):
            continue
    assert counted(daemon, "link_frame_dropped_oversized", "ingress") == 1
    (line,) = daemon.events("guest disconnected")
    assert line["error"] == "invalid packet size: 131073 is negative or exceeds maximum 131072"
    agent.guest.run("ping", "-n", "-c", "1", "-W", "2", "192.168.127.1")


def test_frames_that_no_slot_holds_cost_one_counter_and_the_link_goes_on(
    daemon: Daemon, agent: Agent
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.qemu_socket))
        for _ in range(200):
            sock.sendall((100_000).to_bytes(4, "big") + bytes(100_000) + (1).to_bytes(4, "big") + b"r")
        wait_for(lambda: sum(daemon.gauge("link_frame_dropped_runt").values()) == 200, "the runts behind", 4)
        assert counted(daemon, "link_frame_dropped_oversized", "ingress") == 200
        assert not daemon.events("guest disconnected")
        agent.guest.run("ping", "-n", "-c", "1", "-W", "2", "192.168.127.1")


def test_a_guest_that_leaves_is_forgotten_and_gets_its_lease_again(daemon: Daemon, agent: Agent) -> None:
    for _ in range(2):
        with Agent(daemon.network.guests[1], daemon.socket, mac=OTHER_MAC) as other:
            other.guest.run("ping", "-n", "-c", "1", "-W", "2", GUEST_ADDR)
            assert json.loads(daemon.api("/leases")[1])[OTHER_ADDR] == OTHER_MAC
        wait_for(lambda: OTHER_MAC not in json.loads(daemon.api("/cam")[1]), "its MAC is forgotten")
