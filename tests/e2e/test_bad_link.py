"""TCP over a link that loses, doubles and reorders frames, on the QEMU socket.

BAD_LINK_MIB sets the size of a bulk transfer (`make stress`: 256).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.agent import run_client
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, wait_for
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
BULK = int(os.environ.get("BAD_LINK_MIB", "16")) * MIB
EACH = min(BULK // 64, MIB)
"""Bytes of each of many connections."""


class Shim:
    """tests.support.frame_shim as the guest's link, with a static address."""

    def __init__(self, daemon: Daemon, *flags: str) -> None:
        self.guest = daemon.network.guest
        argv = [sys.executable, "-m", "tests.support.frame_shim", str(daemon.qemu_socket), "tap0", *flags]
        self._process = self.guest.popen(argv, stdout=subprocess.PIPE, text=True)
        wait_for(
            lambda: "UP" in self.guest.run("ip", "link", "show", "tap0", check=False).stdout, "the shim's tap"
        )
        self.guest.ip("address", "add", "192.168.127.2/24", "dev", "tap0")
        self.guest.ip("route", "add", "default", "via", "192.168.127.1")

    def stop(self) -> dict[str, dict[str, int]]:
        """End it; what it did to each direction."""
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=10)
        counts: dict[str, dict[str, int]] = json.loads(out)
        return counts


@pytest.fixture
def bad_link(daemon: Daemon) -> Iterator[Shim]:
    """1 % loss, 1 % duplication and 1 % reordering in each direction."""
    shim = Shim(daemon, "-loss", "0.01", "-duplicate", "0.01", "-reorder", "0.01", "-seed", "7")
    yield shim
    for counts in shim.stop().values():
        assert min(counts["lost"], counts["duplicated"], counts["reordered"]) > 0, counts


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_bulk_transfer_over_a_bad_link_arrives_with_its_hash(bad_link: Shim, direction: str) -> None:
    # Some 11000 frames for 16 MiB, of which 110 are lost.
    down, up = (BULK, 0) if direction == "down" else (0, BULK)
    outcome = run_client(bad_link.guest, "transfer", INTERNET_ADDR, DATA, down, up, timeout=250)
    assert outcome["errors"] == []


def test_many_connections_over_a_bad_link_arrive_with_their_hashes(daemon: Daemon, bad_link: Shim) -> None:
    # Enough of them that what waits for missing frames would fill all memory, were that allowed.
    outcome = run_client(bad_link.guest, "transfer", INTERNET_ADDR, DATA, EACH, EACH, 200, timeout=250)
    assert outcome["errors"] == []
    assert daemon.gauge("tcp_flow_lost_out_of_order")["tcp0"] > 0


def test_a_clean_shim_changes_nothing(daemon: Daemon, outside: Servers) -> None:
    shim = Shim(daemon)
    outcome = run_client(shim.guest, "transfer", INTERNET_ADDR, DATA, 8 * MIB, 8 * MIB, timeout=120)
    assert outcome["errors"] == []
    for counts in shim.stop().values():
        assert counts["lost"] == counts["duplicated"] == counts["reordered"] == 0
