"""Guests without our agent: another program carries frames between a tap in a namespace and the daemon.

    python -m tests.support.foreign le16|vpnkit SOCKET TAP      frames with a 2-byte length before each
    python -m tests.support.foreign fd-KIND SOCKET TAP          passes one end of a socket pair, as Lima does

socat carries packets (bess) and datagrams (vfkit). tests.support.frame_shim carries QEMU's stream.
"""

import errno
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.system.tap import Tap
from pipeline.wire import framing
from tests.support import last_words
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, GUEST_MAC, run_client
from tests.support.netns import Namespace, wait_for

UUID = "c3d68012-0208-11ea-9fd7-f2189899ab08"


class Foreign:
    """A guest with a static address. Its link is the program argv, which runs in its namespace."""

    def __init__(
        self, guest: Namespace, argv: list[str], address: str = GUEST_ADDR, mac: str = GUEST_MAC
    ) -> None:
        self.guest = guest
        self._argv = argv
        self._address = address
        self._mac = mac
        self._inherited: tuple[int, ...] = ()
        """Descriptors that the program needs."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program. Returns when the tap is up and has its address."""
        self._process = self.guest.popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=self._inherited
        )

        def is_there() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"{self._argv[0]} ended with {self._process.returncode}"
            return self.guest.run("ip", "link", "show", "tap0", check=False).returncode == 0

        wait_for(is_there, "the guest's tap")
        self.guest.ip("link", "set", "tap0", "address", self._mac, "up")
        self.guest.ip("address", "add", f"{self._address}/24", "dev", "tap0")
        self.guest.ip("route", "add", "default", "via", GATEWAY_ADDR)

    def run(self, command: str, *words: object) -> dict[str, Any]:
        """Run a command of tests.support.client in the guest. Returns its result."""
        return run_client(self.guest, command, *words)

    def ping(self, address: str = GATEWAY_ADDR) -> None:
        """Ping an address from the guest. AssertionError without an answer."""
        self.guest.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", address)

    def leave(self) -> None:
        """Kill the program, as if the machine had been switched off."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(5)
        self._process = None
        wait_for(
            lambda: self.guest.run("ip", "link", "show", "tap0", check=False).returncode != 0, "the tap goes"
        )

    def __enter__(self) -> "Foreign":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            if kind is None:
                last_words.arrive(self.guest, self._process.pid)
            self.leave()


_TAP = "TUN,tun-name=tap0,tun-type=tap,iff-no-pi"


def bess(guest: Namespace, path: Path, **where: str) -> Foreign:
    """A guest on a packet socket, as of User Mode Linux. socat carries the frames."""
    return Foreign(guest, ["socat", "-b", "65536", f"UNIX-CONNECT:{path},type=5", _TAP], **where)


def vfkit(guest: Namespace, path: Path, own_path: Path, **where: str) -> Foreign:
    """A guest on datagrams between two bound sockets, as of vfkit. socat carries the frames."""
    own_path.unlink(missing_ok=True)
    return Foreign(guest, ["socat", "-b", "65536", f"UNIX-SENDTO:{path},bind={own_path}", _TAP], **where)


def qemu(guest: Namespace, path: Path, **where: str) -> Foreign:
    """A guest on QEMU's stream socket, without QEMU."""
    return Foreign(guest, [sys.executable, "-m", "tests.support.frame_shim", str(path), "tap0"], **where)


def stream(guest: Namespace, protocol: str, path: Path, **where: str) -> Foreign:
    """A guest whose link is this module: "le16", or "vpnkit" with its handshake."""
    return Foreign(
        guest, [sys.executable, "-m", "tests.support.foreign", protocol, str(path), "tap0"], **where
    )


def vhost_user(guest: Namespace, path: Path, *words: str, **where: str) -> Foreign:
    """A guest whose rings are in memory, with the offloads of a virtio card. It connects again by itself."""
    argv = [sys.executable, "-m", "perf.vhost_nic", "--tap", "tap0", "--socket", str(path), "--reconnect"]
    return Foreign(guest, [*argv, *words], **where)


def passed(guest: Namespace, kind: str, path: Path, **where: str) -> Foreign:
    """A guest whose socket this module passes to the daemon. kind: one of PASSED."""
    return stream(guest, f"fd-{kind}", path, **where)


PASSED = {"stream": socket.SOCK_STREAM, "packets": socket.SOCK_SEQPACKET, "datagrams": socket.SOCK_DGRAM}


# --- the program --------------------------------------------------------------------------


def _shake_hands(sock: socket.socket) -> None:
    hello = framing.vpnkit_hello()
    sock.sendall(hello)
    assert sock.recv(len(hello), socket.MSG_WAITALL) == hello
    sock.sendall(framing.vpnkit_command(UUID))
    assert len(sock.recv(framing.VPNKIT_REPLY_LEN, socket.MSG_WAITALL)) == framing.VPNKIT_REPLY_LEN


def _pass(client: socket.socket, kind: str) -> socket.socket:
    """Pass one end of a new socket pair. Returns the other end, and closes the client's connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, PASSED[kind])
    socket.send_fds(client, [b"\0"], [theirs.fileno()])
    theirs.close()
    client.close()
    return ours


def _carry_packets(sock: socket.socket, tap: int) -> None:
    while True:
        readable, _, _ = select.select([tap, sock], [], [])
        if tap in readable:
            sock.send(os.read(tap, framing.MAX_FRAME))
        if sock in readable:
            _deliver(tap, sock.recv(framing.MAX_FRAME))


def _carry(sock: socket.socket, tap: int, form: framing.Framing = framing.LE16) -> None:
    received = b""
    while True:
        readable, _, _ = select.select([tap, sock], [], [])
        if tap in readable:
            frame = os.read(tap, framing.MAX_FRAME)
            sock.sendall(form.prefix.pack(len(frame)) + frame)
        if sock in readable:
            data = sock.recv(1 << 17)
            if not data:
                return
            received += data
            whole, rest = framing.split(received, 0, len(received), form)
            for off, length in whole:
                _deliver(tap, received[off : off + length])
            received = received[rest:]


def _deliver(tap: int, frame: bytes) -> None:
    """Write a frame to the tap. It is lost if the interface is not up yet."""
    try:
        os.write(tap, frame)
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def main() -> None:
    """Connect, do the handshake, open the tap, and carry frames."""
    protocol, path, name = sys.argv[1:]
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    if protocol.startswith("fd-"):
        kind = protocol.removeprefix("fd-")
        sock = _pass(sock, kind)
        tap = Tap.open(name).fd
        if kind == "stream":
            _carry(sock, tap, framing.QEMU)
        _carry_packets(sock, tap)
    if protocol == "vpnkit":
        _shake_hands(sock)
    _carry(sock, Tap.open(name).fd)


if __name__ == "__main__":
    main()
