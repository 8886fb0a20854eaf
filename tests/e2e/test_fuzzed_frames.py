"""A guest that sends mutated frames without pause, and what becomes of them and of another guest's download.

FUZZ_FRAMES sets how many (`make stress`: ten million); with PERF_CHECK=1 the download must also keep 80 % of
the speed that it has while the hostile guest is silent.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, add_ipv6, wait_for
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
FRAMES = int(os.environ.get("FUZZ_FRAMES", "20000"))
CHECK_SPEED = os.environ.get("PERF_CHECK", "") == "1"
DOWNLOAD = 256 * MIB if CHECK_SPEED else 8 * MIB
MAX_PAIRS = 40
"""Downloads with and without the flood, in turns."""
MAX_GROWTH_MIB = 24
"""Of a worker's resident memory from a fifth of the frames on: tables fill up to their limits."""

INGRESS_FATES = (
    "ipv4_packets_received",
    "udp_datagram_dropped_bad_checksum",
    "link_frame_dropped_runt",
    "ipv4_packet_dropped_bad_checksum",
    "tcp_segment_dropped_bad_checksum",
)
"""Of frames that go no further, and of those that ingress itself hands on past demux (steering)."""
DEMUX_FATES = (
    "arp_messages_received",
    "arp_message_dropped_truncated",
    "arp_message_dropped_unsupported",
    "demux_frame_dropped_unknown_ethertype",
    "ipv4_packets_received",
    "ipv4_packet_dropped_bad_checksum",
    "ipv4_packet_dropped_bad_length",
    "ipv4_packet_dropped_bad_version",
    "ipv4_packet_dropped_truncated",
    "switch_frame_dropped_bad_source",
    "switch_frame_dropped_gateway_source",
    "switch_frame_dropped_moving_source",
    "switch_frame_dropped_same_link",
    "switch_frame_dropped_unknown_destination",
)
"""Each frame that ingress passes on to demux has one of these; all else is counted beside it, further in."""


class FuzzGuest:
    """tests.support.fuzz_guest as a process."""

    def __init__(self, daemon: Daemon, count: int, *flags: str) -> None:
        argv = [sys.executable, "-m", "tests.support.fuzz_guest", str(daemon.qemu_socket), str(count), *flags]
        self.process = daemon.network.host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.outcome: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.outcome = json.loads(self.process.stdout.readline())

    @property
    def done(self) -> bool:
        """Whether every frame was sent."""
        return not self._reader.is_alive()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Meanwhile it sends nothing."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        yield
        self.process.send_signal(signal.SIGCONT)

    def wait(self) -> dict[str, Any]:
        """Every frame is sent: the guest's own figures."""
        self._reader.join()
        return self.outcome

    def leave(self) -> None:
        """End the link."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(10) == 0


def resident_mib(daemon: Daemon) -> dict[str, float]:
    """Memory of the workers that is theirs alone: the arena is shared and counted for all that touch it."""
    found = {}
    for name, pid in daemon.workers().items():
        text = Path(f"/proc/{pid}/status").read_text()
        found[name] = int(text.split("RssAnon:")[1].split()[0]) / 1024
    return found


def test_every_frame_has_exactly_one_fate(daemon: Daemon) -> None:
    fuzz = FuzzGuest(daemon, 20000, "-payload", "-seed", "11")
    sent = fuzz.wait()["frames"]
    wait_for(lambda: daemon.gauge("link_frames_from_guest")["ingress"] == sent, "every frame was read")

    def fates() -> int:
        in_ingress = sum(daemon.gauge(name)["ingress"] for name in INGRESS_FATES)
        return in_ingress + sum(daemon.gauge(name)["demux"] for name in DEMUX_FATES)

    try:
        wait_for(lambda: fates() == sent, "every frame has a fate")
    except AssertionError as error:
        raise AssertionError(f"{error}: {sent} sent, {fates()} accounted for") from None
    for worker in ("ingress", "demux"):
        assert daemon.gauge("ipv4_packets_received")[worker] > 0, "both ways were taken"
    fuzz.leave()


@pytest.fixture(params=["IPv4", "both families"])
def fuzzed(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Daemon]:
    """A daemon whose hostile guest sends frames of these families."""
    if request.param != "IPv4":
        add_ipv6(network)
    with Daemon(network, "-ipv6", "off" if request.param == "IPv4" else "on") as made:
        yield made


def test_a_download_beside_a_flood_of_fuzzed_frames_arrives_with_its_hash(fuzzed: Daemon) -> None:
    daemon = fuzzed
    with Agent(daemon.network.guest, daemon.socket) as agent:
        _download_beside_a_flood(daemon, agent)


def _download_beside_a_flood(daemon: Daemon, agent: Agent) -> None:
    def download() -> float:
        outcome = agent.run("transfer", INTERNET_ADDR, DATA, DOWNLOAD, 0, timeout=300)
        assert outcome["errors"] == []
        return DOWNLOAD / MIB / float(outcome["seconds"])

    alone = [download()]
    has_ipv6 = daemon.flags[-1] == "on"
    fuzz = FuzzGuest(daemon, FRAMES, *(("-ipv6",) if has_ipv6 else ()))
    memory: dict[str, float] = {}
    beside: list[float] = []
    while not fuzz.done:
        beside.append(download())
        if CHECK_SPEED and len(alone) < MAX_PAIRS:
            # In turns, so that what else the machine does slows both.
            with fuzz.silent():
                alone.append(download())
        if not memory and daemon.gauge("link_frames_from_guest")["ingress"] > FRAMES / 5:
            memory = resident_mib(daemon)
    later = resident_mib(daemon)
    fuzz.leave()
    growth = {name: later[name] - memory.get(name, later[name]) for name in later}
    figures = {
        "alone_mib_s": alone,
        "beside_mib_s": beside,
        "fuzz": fuzz.outcome,
        "growth_mib": growth,
        "paused": daemon.gauge("link_reads_paused_misbehaving")["ingress"],
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    assert (sum(daemon.gauge("ipv6_packets_received").values()) > 0) == has_ipv6
    assert max(growth.values()) < MAX_GROWTH_MIB, figures
    if CHECK_SPEED:
        pairs = beside[: len(alone) - 1]
        assert median(pairs) > 0.8 * median(alone[1:]), figures
