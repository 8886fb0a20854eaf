"""Guests like those of libkrun: a tap that leaves checksums and segmentation to its card, without headers.

    python -m tests.support.stripped qemu|vfkit SOCKET MAC OWN_SOCKET [tagged]

The program opens tap0 with virtio-net headers, and offers CSUM, TSO4 and UFO to the kernel. It strips the
header from frames of the kernel, and puts one of zeros before frames for the kernel. Kernels since 4.14 make
fragments instead of using UFO. So the program joins the fragments of a datagram to the one frame that UFO
would have made. "tagged" puts a priority tag into every frame.

The guest gets its address by DHCP over an ordinary socket, so its kernel leaves out the checksums of these
messages too. On SIGTERM the program prints a JSON object: how many frames it sent without a checksum, and how
many that were longer than the MTU.
"""

import contextlib
import fcntl
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from guest.dhcp_states import Bind, Client, Send
from pipeline.engines.reassembly import Reassembler
from pipeline.system import netlink
from pipeline.system.tap import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, TUNSETOFFLOAD, Tap
from pipeline.wire import dhcp, ethernet, fragment, framing, ip, ipv4, virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.framing import QEMU
from tests.support.agent import address, default_route, run_client
from tests.support.foreign import _deliver
from tests.support.netns import Namespace, wait_for
from tests.support.offload import partial

CSUM: Final = 0x01
TSO4: Final = 0x02
UFO: Final = 0x10
"""TUN_F_* of linux/if_tun.h."""
TAG: Final = bytes.fromhex("8100a000")
"""Priority 5, VLAN ID 0."""
BUFFER_BYTES: Final = 4 << 20
MTU: Final = 1500
_HEADER_LEN: Final = virtio_net.SHORT_LEN
_NO_HEADER: Final = bytes(_HEADER_LEN)
_CHECK_OFF: Final = 40


class Stripped:
    """Such a guest, in a namespace."""

    def __init__(
        self, guest: Namespace, protocol: str, path: Path, number: int, *, tagged: bool = False
    ) -> None:
        """protocol: "qemu" or "vfkit", for the socket at path. number: of the guest, for its MAC."""
        self.guest = guest
        self.mac = f"5a:94:ef:e4:0d:{number:02x}"
        own_path = path.with_name(f"{guest.name}-machine.sock")
        self._argv = [
            sys.executable,
            "-m",
            "tests.support.stripped",
            protocol,
            str(path),
            self.mac,
            str(own_path),
        ]
        self._argv += ["tagged"] if tagged else []
        self._process: subprocess.Popen[str] | None = None
        self.address = ""
        self.counts: dict[str, int] = {}
        """The counts "partial" and "long" that the program printed. They are known after leave()."""

    def start(self) -> None:
        """Start the guest, and do not wait for its address."""
        self._process = self.guest.popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )

    def settle(self) -> None:
        """Wait until DHCP has given it an address."""

        def settled() -> str:
            assert self._process is not None
            assert self._process.poll() is None, f"the guest ended with {self._process.returncode}"
            return address(self.guest) if default_route(self.guest) else ""

        self.address = wait_for(settled, f"an address in {self.guest.name}", 20.0, 0.1).partition("/")[0]

    def run(self, command: str, *words: object) -> dict[str, Any]:
        """Run a command of tests.support.client in the guest. Returns its result."""
        return run_client(self.guest, command, *words)

    def leave(self) -> None:
        """End the program, as if the machine was switched off."""
        if self._process is not None:
            self._process.terminate()
            out, _ = self._process.communicate(timeout=10)
            self._process = None
            self.counts = json.loads(out)

    def __enter__(self) -> "Stripped":
        self.start()
        self.settle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


# --- the program --------------------------------------------------------------------------


class _Card:
    """Plays the virtual machine monitor, between tap and socket."""

    def __init__(self, tap: Tap, sock: socket.socket, datagrams: bool, tagged: bool) -> None:
        self.counts = {"partial": 0, "long": 0}
        self._tap = tap
        self._sock = sock
        self._datagrams = datagrams
        self._tagged = tagged
        self._fragments = Reassembler()

    def carry(self) -> None:
        """Carry frames in both directions, until the socket ends."""
        received = b""
        while True:
            readable, _, _ = select.select([self._tap.fd, self._sock], [], [])
            if self._tap.fd in readable:
                data = os.read(self._tap.fd, _HEADER_LEN + framing.MAX_FRAME)
                self._send(virtio_net.parse(data, 0, len(data)), data[_HEADER_LEN:])
            if self._sock in readable:
                data = self._sock.recv(1 << 17)
                if not data:
                    return
                if self._datagrams:
                    _deliver(self._tap.fd, _NO_HEADER + data)
                    continue
                received += data
                whole, rest = framing.split(received, 0, len(received), QEMU)
                for off, length in whole:
                    _deliver(self._tap.fd, _NO_HEADER + received[off : off + length])
                received = received[rest:]

    def _send(self, header: virtio_net.Header, frame: bytes) -> None:
        joined = self._joined(frame)
        if joined is None:
            return
        self.counts["partial"] += bool(header.flags & virtio_net.NEEDS_CSUM) or joined is not frame
        self.counts["long"] += len(joined) > MTU + ethernet.HEADER_LEN
        if self._tagged:
            joined = joined[:12] + TAG + joined[12:]
        self._sock.sendall(joined if self._datagrams else QEMU.prefix.pack(len(joined)) + joined)

    def _joined(self, frame: bytes) -> bytes | None:
        """The frame to send. Fragments become one datagram without a checksum, when all are there."""
        if frame[12:14] != b"\x08\x00":
            return frame
        begin = ethernet.HEADER_LEN
        header = ipv4.parse(frame, begin, len(frame))
        if header.proto != ipv4.PROTO_UDP or not (header.frag_off or header.flags & ipv4.FLAG_MF):
            return frame
        packet = self._fragments.on_fragment(
            frame, begin, fragment.from_ipv4(begin, header), 0, time.monotonic()
        )
        if packet is None:
            return None
        length = len(packet) - ipv4.HEADER_LEN
        made = bytearray(frame[:begin] + packet)
        made[_CHECK_OFF : _CHECK_OFF + 2] = partial(header.src, header.dst, ipv4.PROTO_UDP, length)
        return bytes(made)


def _acquire(name: str, mac: bytes) -> None:
    """Get and keep an address with DHCP, over an ordinary socket."""
    client = Client(mac, time.monotonic(), random.random)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        sock.bind(("0.0.0.0", dhcp.CLIENT_PORT))
        while True:
            client.on_timer(time.monotonic())
            for action in client.take_actions():
                if isinstance(action, Send):
                    server = ip.text(action.server or ip.BROADCAST)
                    with contextlib.suppress(OSError):
                        sock.sendto(dhcp.build(action.message), (server, dhcp.SERVER_PORT))
                elif isinstance(action, Bind):
                    netlink.set_address(name, action.lease.address, action.lease.prefix)
                    netlink.set_default_route(name, action.lease.router)
            wait = max(client.deadline() - time.monotonic(), 0.0)
            if select.select([sock], [], [], min(wait, 3600.0))[0]:
                data = sock.recv(65536)
                with contextlib.suppress(WireError):
                    client.on_message(dhcp.parse(data, 0, len(data)), time.monotonic())


def main() -> None:
    """Connect, open the tap, carry frames in a thread, and get an address with DHCP."""
    protocol, path, text, own_path, *more = sys.argv[1:]
    datagrams = protocol == "vfkit"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    if datagrams:
        sock.bind(own_path)
    sock.connect(path)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    if datagrams:
        sock.send(b"VFKT")
    mac = ethernet.mac_parse(text)
    tap = Tap.open("tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    fcntl.ioctl(tap.fd, TUNSETOFFLOAD, CSUM | TSO4 | UFO)
    tap.set_mac(mac)
    tap.set_up()
    card = _Card(tap, sock, datagrams, bool(more))

    def end(_signal: int, _frame: FrameType | None) -> None:
        sys.stdout.write(json.dumps(card.counts))
        sys.stdout.flush()
        Path(own_path).unlink(missing_ok=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=card.carry, daemon=True).start()
    _acquire("tap0", mac)


if __name__ == "__main__":
    main()
