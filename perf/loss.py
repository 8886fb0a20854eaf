"""Measures bulk transfers over a link that loses frames: this program compared with two Linux kernels.

python -m perf.loss [--loss P] [--mib N] [--repeat N]

Both use the same shim (tests/support), a Python program that forwards Ethernet frames of 1500 bytes from tap
to socket, or from tap to tap. It drops each frame, in both directions, with the given probability:

    kernels    guest kernel -- tap -- shim -- tap -- guest kernel
    daemon     guest kernel -- tap -- shim -- QEMU socket -- daemon -- host kernel

The kernels use CUBIC (--congestion), as the engine does, and as Linux does by default. BBR would not compare,
because it ignores loss. The script prints one JSON object with MB/s of each repetition, and the ratios of the
medians. Each transfer has a hash, so only complete transfers count. Needs root.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from tests.support.agent import run_client
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, Servers

MIB: Final = 1 << 20
NEEDED_RATIO: Final = 0.5
"""The daemon must reach at least this part of the rate between two kernels."""
_GUEST: Final = ("192.168.127.2/24", "192.168.127.1")
_SUBNET: Final = "192.168.127.0/24"
_OTHER: Final = "192.168.127.3"
_TIMEOUT: Final = 600.0


def _rate(transfer: Callable[[int, int], dict[str, object]], down: int, up: int) -> float:
    """MB/s of one transfer. RuntimeError if it did not arrive completely."""
    outcome = transfer(down, up)
    if outcome["errors"]:
        raise RuntimeError(str(outcome["errors"]))
    seconds = outcome["seconds"]
    assert isinstance(seconds, float)
    return (down + up) / seconds / 1e6


def _both_ways(
    transfer: Callable[[int, int], dict[str, object]], size: int, repeat: int
) -> dict[str, list[float]]:
    return {
        "down": [round(_rate(transfer, size, 0), 2) for _ in range(repeat)],
        "up": [round(_rate(transfer, 0, size), 2) for _ in range(repeat)],
    }


def kernels(
    network: Network, loss: float, size: int, repeat: int, seed: int, congestion: str
) -> dict[str, list[float]]:
    """MB/s between two kernels. The first guest is the client."""
    first, second = network.guests
    flags = ["-loss", str(loss), "-seed", str(seed)]
    argv = [sys.executable, "-m", "tests.support.tap_pair", first.name, second.name, *flags]
    shim = network.host.popen(argv, stdout=subprocess.PIPE, text=True)
    assert shim.stdout is not None
    assert shim.stdout.readline() == "ready\n"
    first.ip("address", "add", _GUEST[0], "dev", "tap0")
    second.ip("address", "add", f"{_OTHER}/24", "dev", "tap0")
    for guest in network.guests:
        guest.ip("route", "replace", _SUBNET, "dev", "tap0", "congctl", congestion)
    servers = Servers(second, network.directory)
    try:
        return _both_ways(
            lambda down, up: run_client(first, "transfer", _OTHER, DATA, down, up, timeout=_TIMEOUT),
            size,
            repeat,
        )
    finally:
        servers.close()
        shim.send_signal(signal.SIGTERM)
        shim.wait(10)


def daemon(
    network: Network, loss: float, size: int, repeat: int, seed: int, congestion: str
) -> dict[str, list[float]]:
    """MB/s through the daemon. The first guest is the client, the server is outside."""
    servers = Servers(network.internet, network.directory)
    guest = network.guest
    with Daemon(network) as running:
        flags = ["-loss", str(loss), "-seed", str(seed)]
        argv = [sys.executable, "-m", "tests.support.frame_shim", str(running.qemu_socket), "tap0", *flags]
        shim = guest.popen(argv, stdout=subprocess.PIPE, text=True)
        wait_for(
            lambda: "UP" in guest.run("ip", "link", "show", "tap0", check=False).stdout, "the shim's tap"
        )
        guest.ip("address", "add", _GUEST[0], "dev", "tap0")
        guest.ip("route", "add", "default", "via", _GUEST[1], "congctl", congestion)
        try:
            return _both_ways(
                lambda down, up: run_client(
                    guest, "transfer", INTERNET_ADDR, DATA, down, up, timeout=_TIMEOUT
                ),
                size,
                repeat,
            )
        finally:
            shim.send_signal(signal.SIGTERM)
            shim.wait(10)
            servers.close()


def measure(
    loss: float, size: int, repeat: int, seed: int = 1, congestion: str = "cubic"
) -> dict[str, object]:
    """Measure both, one after the other, in new namespaces. Rates in MB/s, size in bytes."""
    with Network(guest_count=2) as network:
        ours = daemon(network, loss, size, repeat, seed, congestion)
        theirs = kernels(network, loss, size, repeat, seed, congestion)
    ratios = {
        way: round(statistics.median(ours[way]) / statistics.median(theirs[way]), 3) for way in ("down", "up")
    }
    return {
        "loss": loss,
        "congestion": congestion,
        "bytes": size,
        "daemon": ours,
        "kernels": theirs,
        "ratio": ratios,
    }


def main() -> None:
    """Measure and print. The exit status is 1 if the daemon is below NEEDED_RATIO in one direction."""
    parser = argparse.ArgumentParser(description="bulk transfer over a link with loss")
    parser.add_argument("--loss", type=float, default=0.05, help="probability per frame and direction")
    parser.add_argument("--mib", type=int, default=32, help="size of one transfer")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--congestion", default="cubic", help="of the kernels")
    arguments = parser.parse_args()
    outcome = measure(
        arguments.loss, arguments.mib * MIB, arguments.repeat, arguments.seed, arguments.congestion
    )
    print(json.dumps(outcome, indent=2))
    ratios = outcome["ratio"]
    assert isinstance(ratios, dict)
    sys.exit(min(ratios.values()) < NEEDED_RATIO)


if __name__ == "__main__":
    main()
