"""Guests whose machine monitor passes the virtio-net header on, as libkrun does if it is asked to.

    python -m tests.support.headers KIND PLACE FEATURES COUNTS [OWN_SOCKET]

The program opens tap0 with virtio-net headers of 12 bytes. The kernel may leave FEATURES (TUN_F_*) to its
card. The program carries frames and headers between the tap and the daemon, unchanged. KIND is "vfkit" or
"qemu" for the socket at PLACE, "fd-KIND" to pass one end of a socket pair there, or "inherited" for a
datagram socket with the number PLACE. On SIGTERM the program writes to COUNTS what headers it has carried.

Kernels since 4.14 make fragments instead of using UFO. So the program joins those of IPv4 to the datagram
that UFO would leave to the card.
"""

import collections
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from pipeline.system import tap as taps
from pipeline.system.tap import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, Tap
from pipeline.wire import framing, offload, virtio_net
from pipeline.wire.framing import QEMU
from pipeline.wire.virtio_net import GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, LONG_LEN, NEEDS_CSUM, Header
from tests.support.foreign import PASSED, Foreign, _deliver, _pass
from tests.support.netns import Namespace, wait_for
from tests.support.stripped import BUFFER_BYTES, _Card

NAMES = {GSO_NONE: "none", GSO_TCPV4: "tcp4", GSO_TCPV6: "tcp6", GSO_UDP: "ufo"}
_LONG_DATAGRAM = 1514


class Headers(Foreign):
    """Such a guest, in a namespace, with a static IPv4 address."""

    def __init__(
        self,
        guest: Namespace,
        kind: str,
        place: Path | int,
        folder: Path,
        features: int = offload.CSUM | offload.TSO4 | offload.TSO6,
        **where: str,
    ) -> None:
        """kind, place: see the module. folder: for its own files."""
        self._counts = folder / f"{guest.name}-counts.json"
        own = folder / f"{guest.name}-machine.sock"
        own.unlink(missing_ok=True)
        words = [kind, str(place), str(features), str(self._counts), str(own)]
        super().__init__(guest, [sys.executable, "-m", "tests.support.headers", *words], **where)
        self._inherited = (place,) if isinstance(place, int) else ()
        self.counts: dict[str, int] = {}
        """Frames by direction and GSO type, such as "up tcp4". They are known after leave()."""

    def leave(self) -> None:
        """End the program."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        self._process = None
        wait_for(
            lambda: self.guest.run("ip", "link", "show", "tap0", check=False).returncode != 0, "the tap goes"
        )
        self.counts = json.loads(self._counts.read_text())


# --- the program --------------------------------------------------------------------------


class _Monitor:
    """Plays the virtual machine monitor, between tap and socket."""

    def __init__(self, tap: Tap, sock: socket.socket, is_stream: bool) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self._tap = tap
        self._sock = sock
        self._is_stream = is_stream
        self._joiner = _Card(tap, sock, not is_stream, False)

    def carry(self) -> None:
        """Carry frames in both directions, until the socket ends."""
        received = b""
        while True:
            readable, _, _ = select.select([self._tap.fd, self._sock], [], [])
            if self._tap.fd in readable:
                self._send(os.read(self._tap.fd, LONG_LEN + framing.MAX_FRAME))
            if self._sock in readable:
                data = self._sock.recv(1 << 17)
                if not self._is_stream:
                    self._receive(data)
                    continue
                if not data:
                    return
                received += data
                whole, rest = framing.split(received, 0, len(received), QEMU)
                for off, length in whole:
                    self._receive(received[off : off + length])
                received = received[rest:]

    def _receive(self, data: bytes) -> None:
        self._count("down", data)
        _deliver(self._tap.fd, data)

    def _send(self, data: bytes) -> None:
        frame = data[LONG_LEN:]
        joined = self._joiner._joined(frame)
        if joined is None:
            return
        if joined is not frame:
            header = Header(NEEDS_CSUM, GSO_UDP, 42, 1480, 34, 6, 0)
            data = virtio_net.build(header, LONG_LEN) + joined
        self._count("up", data)
        self._sock.sendall(QEMU.prefix.pack(len(data)) + data if self._is_stream else data)

    def _count(self, way: str, data: bytes) -> None:
        header = virtio_net.parse(data, 0, len(data), LONG_LEN)
        self.counts[f"{way} {NAMES[header.gso_type]}"] += 1
        self.counts[f"{way} partial"] += bool(header.flags & NEEDS_CSUM)
        if header.gso_type == GSO_NONE and len(data) > LONG_LEN + _LONG_DATAGRAM:
            self.counts[f"{way} long"] += 1


def _connect(kind: str, place: str, own: str) -> tuple[socket.socket, bool]:
    """The socket for frames, and whether it is a stream."""
    if kind == "inherited":
        return socket.socket(fileno=int(place)), False
    if kind == "vfkit":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(own)
        sock.connect(place)
        sock.send(b"VFKT")
        return sock, False
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(place)
    if kind == "qemu":
        return sock, True
    passed = kind.removeprefix("fd-")
    return _pass(sock, passed), PASSED[passed] == socket.SOCK_STREAM


def main() -> None:
    """Connect, open the tap, and carry frames."""
    kind, place, features, counts, own = sys.argv[1:]
    sock, is_stream = _connect(kind, place, own)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    tap = Tap.open("tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    taps.offload(tap.fd, int(features))
    fcntl.fcntl(tap.fd, fcntl.F_SETFL, fcntl.fcntl(tap.fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    monitor = _Monitor(tap, sock, is_stream)

    def end(_signal: int, _frame: FrameType | None) -> None:
        Path(counts).write_text(json.dumps(monitor.counts))
        with contextlib.suppress(FileNotFoundError):
            Path(own).unlink()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    monitor.carry()


if __name__ == "__main__":
    main()
