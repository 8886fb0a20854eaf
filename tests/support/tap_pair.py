"""A bad wire between two kernels: python -m tests.support.tap_pair NETNS NETNS [-loss P] [-duplicate P]
[-reorder P] [-seed N]

Makes tap0 in both (named) namespaces, and carries frames between them with the impairments of
tests.support.frame_shim. So the rate between two kernels can be compared with the rate between a kernel and
the daemon. Prints "ready". On SIGTERM it prints what it did as one JSON object.
"""

import argparse
import ctypes
import errno
import json
import os
import select
import signal
import sys
import threading
import time

from pipeline.system.tap import Tap
from pipeline.wire import framing
from tests.support.frame_shim import HOLD_SECONDS, Impairment, terminate

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def open_inside(netns: str, name: str, mac: bytes) -> Tap:
    """Open a tap in a named namespace, and bring it up. Its descriptor works in every namespace."""
    made: list[Tap] = []

    def inside() -> None:
        with open(f"/run/netns/{netns}", "rb") as handle:
            if _LIBC.setns(handle.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        tap = Tap.open(name)
        tap.set_mac(mac)
        tap.set_up()
        made.append(tap)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    return made[0]


def _carry(source: int, target: int, impairment: Impairment, now: float) -> None:
    leaving: list[bytes] = []
    for _ in range(32):
        try:
            leaving += impairment.pass_frame(os.read(source, framing.MAX_FRAME), now)
        except BlockingIOError:
            break
    _write(target, leaving + impairment.release(now))


def _write(target: int, frames: list[bytes]) -> None:
    for frame in frames:
        try:
            os.write(target, frame)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EINVAL):
                raise


def main() -> None:
    """Open both taps, and carry frames."""
    parser = argparse.ArgumentParser(description="a bad wire between two namespaces")
    parser.add_argument("first")
    parser.add_argument("second")
    for name in ("loss", "duplicate", "reorder"):
        parser.add_argument(f"-{name}", type=float, default=0.0)
    parser.add_argument("-seed", type=int, default=1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, terminate)
    ways = [
        Impairment(arguments.loss, arguments.duplicate, arguments.reorder, arguments.seed + way)
        for way in (0, 1)
    ]
    taps = [
        open_inside(netns, "tap0", bytes.fromhex(f"5a94efe40c{number:02x}"))
        for number, netns in enumerate((arguments.first, arguments.second), 0xE0)
    ]
    fds = [tap.fd for tap in taps]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        while True:
            held = any(way.holding() for way in ways)
            readable, _, _ = select.select(fds, [], [], HOLD_SECONDS if held else None)
            now = time.monotonic()
            for way in (0, 1):
                if fds[way] in readable:
                    _carry(fds[way], fds[1 - way], ways[way], now)
                elif ways[way].holding():
                    _write(fds[1 - way], ways[way].release(now))
    finally:
        json.dump({"forth": ways[0].counts, "back": ways[1].counts}, sys.stdout)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
