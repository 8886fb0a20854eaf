"""Ten guests whose virtio-net headers were stripped, as libkrun does, beside an ordinary one.

Their kernels leave checksums and cutting to a network card that is not there (tests.support.stripped). What
they send to each other and to the ordinary guest must be as on a wire: a capture tells.
"""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_offload import checksum_errors, total
from tests.support.agent import GATEWAY_ADDR, Agent, address
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, UDP_ECHO, Servers
from tests.support.stripped import Stripped

pytestmark = pytest.mark.e2e

MIB = 1 << 20
COUNT = 10
MAX_FRAME = 1514
LONG_DATAGRAM = 20000
BAD = ("tcp_segment", "udp_datagram", "ipv4_packet")
ORDINARY_MAC = "5a:94:ef:e4:0c:99"
CHECKS = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
WRONG = 'tcp.checksum.status == "Bad" or ip.checksum.status == "Bad" or udp.checksum.status == "Bad"'


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Namespaces for ten guests, for an ordinary one after them, and for two of a single test."""
    with Network(guest_count=COUNT + 3) as made:
        yield made


@pytest.fixture(scope="module")
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    """One daemon with sockets for guests of both protocols."""
    links = [
        word
        for number in range(0, COUNT, 2)
        for word in ("-link", f"vfkit+unixgram://{network.directory}/vfkit-{number}.sock")
    ]
    with Daemon(network, *links) as made:
        yield made


@pytest.fixture(scope="module")
def guests(network: Network, daemon: Daemon) -> Iterator[list[Stripped]]:
    """Every second one on datagrams, the others on QEMU's framing; each sends what it must send."""
    made = [
        Stripped(guest, "qemu", daemon.qemu_socket, number)
        if number % 2
        else Stripped(guest, "vfkit", network.directory / f"vfkit-{number}.sock", number)
        for number, guest in enumerate(network.guests[:COUNT])
    ]
    for guest in made:
        guest.start()
    try:
        for guest in made:
            guest.settle()
        yield made
    finally:
        for guest in made:
            guest.leave()
    assert all(guest.counts["partial"] for guest in made)
    assert all(guest.counts["long"] for guest in made)


@pytest.fixture(scope="module")
def ordinary(network: Network, daemon: Daemon) -> Iterator[Agent]:
    """A guest whose frames are whole, with servers in it."""
    with Agent(network.guests[COUNT], daemon.socket, "-offload=false", mac=ORDINARY_MAC) as agent:
        yield agent


@pytest.fixture(scope="module")
def inside(network: Network, ordinary: Agent) -> Iterator[Servers]:
    """Servers in the ordinary guest."""
    servers = Servers(ordinary.guest, network.directory)
    yield servers
    servers.close()


@pytest.fixture(autouse=True)
def nothing_bad(daemon: Daemon) -> Iterator[None]:
    """No checksum is wrong for the daemon, and all slots come home."""
    yield
    daemon.wait_for_free_slots()
    assert {name: total(daemon, f"{name}_dropped_bad_checksum") for name in BAD} == dict.fromkeys(BAD, 0)


def each(guests: list[Stripped], act: Callable[[Stripped], dict[str, Any]]) -> list[dict[str, Any]]:
    """What came of it in every guest, all at once."""
    with ThreadPoolExecutor(len(guests)) as pool:
        return list(pool.map(act, guests))


def test_stripped_guests_have_addresses_by_dhcp(guests: list[Stripped]) -> None:
    assert len({guest.address for guest in guests}) == COUNT


def test_stripped_guests_move_tcp_both_ways(guests: list[Stripped]) -> None:
    outcomes = each(guests, lambda guest: guest.run("transfer", INTERNET_ADDR, DATA, 4 * MIB, 4 * MIB, 2))
    assert [outcome["errors"] for outcome in outcomes] == [[]] * COUNT


def test_stripped_guests_segments_of_64_kib_are_merged_into_few_frames(
    daemon: Daemon, guests: list[Stripped]
) -> None:
    frames, data = total(daemon, "link_frames_from_guest"), total(daemon, "link_bytes_from_guest")
    assert guests[0].run("transfer", INTERNET_ADDR, DATA, 0, 16 * MIB)["errors"] == []
    wait_for(lambda: total(daemon, "link_bytes_from_guest") - data > 16 * MIB, "counters")
    # In frames of 1514 bytes it would be more than 11500.
    assert total(daemon, "link_frames_from_guest") - frames < 4000


@pytest.mark.parametrize("size", [64, 1400, LONG_DATAGRAM])
def test_stripped_guests_datagrams_come_back(guests: list[Stripped], size: int) -> None:
    # Not all at once: the server's socket has room for less than ten long ones.
    for begin in range(0, COUNT, 2):
        two = guests[begin : begin + 2]
        outcomes = each(two, lambda guest: guest.run("udp", INTERNET_ADDR, UDP_ECHO, size, 5))
        assert [outcome["received"] for outcome in outcomes] == [5, 5]


@pytest.mark.parametrize("how", ["udp", "tcp"])
def test_stripped_guests_resolve_names(guests: list[Stripped], how: str) -> None:
    outcomes = each(guests, lambda guest: guest.run("resolve", GATEWAY_ADDR, "www.example.test", "A", how))
    assert [outcome["answers"] for outcome in outcomes] == [[INTERNET_ADDR]] * COUNT


def test_a_stripped_guest_learns_that_a_port_is_closed(guests: list[Stripped]) -> None:
    for guest in guests[:2]:
        assert guest.run("connect", INTERNET_ADDR, 9)["errno"] == "ECONNREFUSED"
        sock = guest.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with sock:
            sock.settimeout(5)
            sock.connect((INTERNET_ADDR, 9))
            sock.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
def test_stripped_guests_run_iperf3(network: Network, guests: list[Stripped], reverse: bool) -> None:
    for guest in guests[:2]:
        server = network.internet.popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        wait_for(lambda: ":5201 " in network.internet.run("ss", "-Htln").stdout, "the server")
        words = ["-c", INTERNET_ADDR, "-n", "16M", "-J", *(["-R"] if reverse else [])]
        outcome = json.loads(guest.guest.run("iperf3", *words).stdout)
        assert "error" not in outcome
        assert outcome["end"]["sum_sent"]["bytes"] >= 16 * MIB
        # The sender says over another connection that this was all, which may overtake the last bytes.
        assert outcome["end"]["sum_received"]["bytes"] >= 8 * MIB
        assert server.wait(10) == 0


def test_stripped_guests_reach_an_ordinary_guest(
    guests: list[Stripped], ordinary: Agent, inside: Servers
) -> None:
    there = address(ordinary.guest).partition("/")[0]
    for guest in guests[:2]:
        assert guest.run("transfer", there, DATA, 8 * MIB, 8 * MIB)["errors"] == []
        assert guest.run("udp", there, UDP_ECHO, 1400, 5)["received"] == 5
        assert guest.run("udp", there, UDP_ECHO, LONG_DATAGRAM, 5)["received"] == 5
    assert checksum_errors(ordinary.guest) == 0


def test_stripped_guests_reach_each_other(network: Network, guests: list[Stripped]) -> None:
    one, two, three = guests[:3]
    servers = Servers(one.guest, network.directory)
    try:
        for guest in (two, three):
            assert guest.run("transfer", one.address, DATA, 8 * MIB, 8 * MIB)["errors"] == []
            assert guest.run("udp", one.address, UDP_ECHO, LONG_DATAGRAM, 5)["received"] == 5
    finally:
        servers.close()
    assert checksum_errors(one.guest) == 0


def test_a_stripped_guest_reaches_a_guest_that_offloads(
    network: Network, daemon: Daemon, guests: list[Stripped]
) -> None:
    with Agent(network.guests[COUNT + 1], daemon.socket, mac="5a:94:ef:e4:0c:98") as agent:
        servers = Servers(guests[1].guest, network.directory)
        try:
            assert agent.run("transfer", guests[1].address, DATA, 8 * MIB, 8 * MIB)["errors"] == []
            assert agent.run("udp", guests[1].address, UDP_ECHO, 1400, 5)["received"] == 5
        finally:
            servers.close()
        assert checksum_errors(agent.guest) == checksum_errors(guests[1].guest) == 0


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
@pytest.mark.parametrize("tagged", [False, True], ids=["untagged", "priority tags"])
def test_a_capture_of_a_stripped_guest_looks_like_a_wire(
    network: Network, outside: Servers, tagged: bool
) -> None:
    path = network.directory / f"stripped-{tagged}.pcap"
    with (
        Daemon(network, "-pcap", str(path), name=f"captured-{tagged}") as second,
        Stripped(network.guests[COUNT + 1], "qemu", second.qemu_socket, 30, tagged=tagged) as one,
        Agent(network.guests[COUNT + 2], second.socket, "-offload=false", mac=ORDINARY_MAC) as two,
    ):
        servers = Servers(two.guest, network.directory)
        there = address(two.guest).partition("/")[0]
        try:
            for where in (INTERNET_ADDR, there):
                assert one.run("transfer", where, DATA, 2 * MIB, 2 * MIB)["errors"] == []
                assert one.run("udp", where, UDP_ECHO, LONG_DATAGRAM, 3)["received"] == 3
            assert one.run("resolve", GATEWAY_ADDR, "www.example.test", "A", "udp")["answers"]
        finally:
            servers.close()
        assert checksum_errors(two.guest) == 0
    assert one.counts["long"]
    assert max(int(size) for size in shown(path, "frame", "frame.len")) == MAX_FRAME
    assert shown(path, WRONG) == []
    assert shown(path, "vlan") == []


def shown(path: Path, only: str, field: str = "frame.number") -> list[str]:
    """A field of each packet that the display filter lets through."""
    argv = ["tshark", "-r", str(path), *CHECKS, "-Y", only, "-T", "fields", "-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
