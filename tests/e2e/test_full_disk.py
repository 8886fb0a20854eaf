"""A disk that fills up under the capture, the flow log and the state file: guests do not notice."""

import json
import struct
from collections.abc import Iterator

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import ECHO, Servers
from tests.support.small_disk import SmallDisk

pytestmark = pytest.mark.e2e

MAC = "5a:94:ef:00:00:07"
"""A guest without a static lease: those are not in the file."""
NO_ROOM = "No space left on device"
FAILING = ("capture not written", "flow log not written", "leases not written yet")
AGAIN = ("capture written again", "flow log written again", "leases written again")


@pytest.fixture
def disk(network: Network) -> SmallDisk:
    place = network.directory / "disk"
    place.mkdir()
    return SmallDisk(place, "8m")


@pytest.fixture
def daemon(network: Network, outside: Servers, disk: SmallDisk) -> Iterator[Daemon]:
    files = {"-pcap": "a.pcap", "-flow-log": "flows", "-state-file": "state.json"}
    flags = [word for flag, name in files.items() for word in (flag, str(disk.place / name))]
    made = Daemon(network, *flags)
    made.command = disk.command(made.command)
    made.expect_errors = True
    with made:
        disk.belongs_to(made.process.pid)
        yield made


def connect(network: Network) -> None:
    """One connection of the guest, which is a line of the flow log and some frames."""
    with network.guest.connect(INTERNET_ADDR, ECHO) as sock:
        sock.sendall(b"x" * 5000)
        heard = 0
        while heard < 5000:
            heard += len(sock.recv(5000))


def times(data: bytes) -> list[int]:
    """The seconds of all records of a capture. struct.error if the last one is not whole."""
    found, at = [], 24
    while at < len(data):
        seconds, _, kept, _ = struct.unpack_from("<IIII", data, at)
        struct.unpack_from(f"{kept}s", data, at + 16)
        found.append(seconds)
        at += 16 + kept
    return found


def test_files_on_a_full_disk_are_written_again_when_there_is_room(
    daemon: Daemon, network: Network, disk: SmallDisk
) -> None:
    disk.fill()
    with Agent(network.guest, daemon.socket, mac=MAC):

        def all_said(events: tuple[str, ...]) -> bool:
            connect(network)
            return all(daemon.events(event) for event in events)

        wait_for(lambda: all_said(FAILING), "everything fails", 30, 0.2)
        for _ in range(5):
            connect(network)
        disk.empty()
        wait_for(lambda: all_said(AGAIN), "everything is written again", 30, 0.2)
        for event in (*FAILING, *AGAIN):
            (line,) = daemon.events(event)
            assert event in AGAIN or NO_ROOM in line["error"], line
        assert '"5a:94:ef:00:00:07"' in disk.inside("state.json").read_text()
        flows = disk.inside("flows").read_text().splitlines()
        assert [line for line in flows if '"kind": "flow-log-lines-lost"' in line]
        json.loads(flows[-1])
    daemon.wait_for_free_slots()

    def whole() -> list[int]:
        try:
            return times(disk.inside("a.pcap").read_bytes())
        except struct.error:
            return []

    assert len(wait_for(whole, "a capture with whole frames")) > 20
