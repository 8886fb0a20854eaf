"""A bad wire: python -m tests.support.frame_shim SOCKET TAP [-loss P] [-duplicate P] [-reorder P] [-seed N]

Bridges a tap to a unix socket with 4-byte big-endian lengths (QEMU's framing). In both directions it drops,
duplicates and delays frames with the given probabilities (0 to 1). A seeded generator chooses the frames. A
delayed frame leaves after one to four later ones, or after 10 ms if none follow. On SIGTERM it prints what it
did as one JSON object.
"""

import argparse
import errno
import json
import os
import random
import select
import signal
import socket
import sys
import time
from types import FrameType

from pipeline.system.tap import Tap
from pipeline.wire import framing
from pipeline.wire.framing import QEMU

HOLD_SECONDS = 0.01
_MAX_OVERTAKEN = 4


class Impairment:
    """One direction: frames go in, and those that leave now come out."""

    def __init__(self, loss: float, duplicate: float, reorder: float, seed: int) -> None:
        self._random = random.Random(seed)
        self._limits = (loss, loss + duplicate, loss + duplicate + reorder)
        self._held: list[tuple[int, float, bytes]] = []  # frames it still lets pass, latest time, frame
        self._passed = 0
        self.counts = {"frames": 0, "lost": 0, "duplicated": 0, "reordered": 0}

    def pass_frame(self, frame: bytes, now: float) -> list[bytes]:
        """The frames that leave when this frame comes."""
        lose, double, hold = self._limits
        chance = self._random.random()
        self.counts["frames"] += 1
        leaving = [frame]
        if chance < lose:
            self.counts["lost"] += 1
            leaving = []
        elif chance < double:
            self.counts["duplicated"] += 1
            leaving = [frame, frame]
        elif chance < hold:
            self.counts["reordered"] += 1
            due = self._passed + self._random.randint(1, _MAX_OVERTAKEN)
            self._held.append((due, now + HOLD_SECONDS, frame))
            return self.release(now)
        self._passed += 1
        return leaving + self.release(now)

    def release(self, now: float) -> list[bytes]:
        """Held frames that must leave now."""
        leaving = [frame for due, until, frame in self._held if due <= self._passed or until <= now]
        self._held = [held for held in self._held if held[0] > self._passed and held[1] > now]
        return leaving

    def holding(self) -> bool:
        """Whether frames are held, so that release() must be called soon."""
        return bool(self._held)


class Shim:
    """The bridge. Its writes to the socket block, which slows the guest's kernel."""

    def __init__(self, tap: Tap, sock: socket.socket, to_host: Impairment, to_guest: Impairment) -> None:
        self._tap = tap
        self._sock = sock
        self._to_host = to_host
        self._to_guest = to_guest
        self._received = bytearray()

    def run(self) -> None:
        """Carry frames until the socket ends."""
        while True:
            held = self._to_host.holding() or self._to_guest.holding()
            readable, _, _ = select.select([self._tap.fd, self._sock], [], [], HOLD_SECONDS if held else None)
            now = time.monotonic()
            if self._tap.fd in readable:
                self._from_tap(now)
            if self._sock in readable and not self._from_socket(now):
                return
            self._send(self._to_host.release(now))
            self._write(self._to_guest.release(now))

    def _from_tap(self, now: float) -> None:
        leaving: list[bytes] = []
        for _ in range(32):
            try:
                leaving += self._to_host.pass_frame(os.read(self._tap.fd, framing.MAX_FRAME), now)
            except BlockingIOError:
                break
        self._send(leaving)

    def _from_socket(self, now: float) -> bool:
        data = self._sock.recv(128 * 1024)
        self._received += data
        whole, rest = framing.split(bytes(self._received), 0, len(self._received), QEMU)
        for off, size in whole:
            self._write(self._to_guest.pass_frame(bytes(self._received[off : off + size]), now))
        del self._received[:rest]
        return bool(data)

    def _send(self, frames: list[bytes]) -> None:
        if frames:
            self._sock.sendall(b"".join(QEMU.prefix.pack(len(frame)) + frame for frame in frames))

    def _write(self, frames: list[bytes]) -> None:
        for frame in frames:
            try:
                os.write(self._tap.fd, frame)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EINVAL):
                    raise


def terminate(_signal: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM: leave through the finally blocks."""
    raise SystemExit(0)


def main() -> None:
    """Open the tap, connect, and bridge."""
    parser = argparse.ArgumentParser(description="a bad wire")
    parser.add_argument("socket")
    parser.add_argument("tap")
    for name in ("loss", "duplicate", "reorder"):
        parser.add_argument(f"-{name}", type=float, default=0.0)
    parser.add_argument("-seed", type=int, default=1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, terminate)
    to_host, to_guest = (
        Impairment(arguments.loss, arguments.duplicate, arguments.reorder, arguments.seed + way)
        for way in (0, 1)
    )
    tap = Tap.open(arguments.tap)
    tap.set_mac(bytes.fromhex("5a94efe40cee"))
    tap.set_up()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(arguments.socket)
    try:
        Shim(tap, sock, to_host, to_guest).run()
    finally:
        json.dump({"to_host": to_host.counts, "to_guest": to_guest.counts}, sys.stdout)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
