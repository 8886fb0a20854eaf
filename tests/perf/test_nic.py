"""The measuring network card between a namespace's kernel and a socket of the test."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf.namespaces import Namespace, Process
from perf.peers import ROOT, configure_guest
from tests.support import netns

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "available"),
]

GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
GUEST_MAC = bytes.fromhex("5a94efe40cee")
GATEWAY, GUEST = bytes([192, 168, 127, 1]), bytes([192, 168, 127, 2])
UDP_PORT = 9999


class Card:
    """A running card, with the test as its peer."""

    def __init__(self, guest: Namespace, process: Process, link: socket.socket) -> None:
        self.guest = guest
        self.process = process
        self.link = link

    def send(self, frame: bytes) -> None:
        self.link.sendall(struct.pack("!I", len(frame)) + frame)

    def answer_arp(self) -> None:
        """Tell the guest who the gateway is, so that it sends what it has."""
        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + GATEWAY_MAC + GATEWAY + GUEST_MAC + GUEST
        self.guest.run(
            *("ip", "neighbour", "replace", "192.168.127.1", "lladdr", GATEWAY_MAC.hex(":"), "dev", "eth0")
        )
        self.send(GUEST_MAC + GATEWAY_MAC + b"\x08\x06" + arp)


@contextlib.contextmanager
def card(directory: Path, *flags: str, mtu: int = 1500) -> Iterator[Card]:
    guest = Namespace()
    path = directory / "card.sock"
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            argv = [
                sys.executable,
                "-m",
                "perf.nic",
                "--tap",
                "eth0",
                "--socket",
                str(path),
                "--mtu",
                str(mtu),
            ]
            process = guest.spawn([*argv, *flags], subprocess.DEVNULL, cwd=ROOT)
            listener.settimeout(20)
            link, _ = listener.accept()
        netns.wait_for(lambda: "eth0" in guest.run("ip", "link"), "the tap")
        configure_guest(guest, mtu, "192.168.127.2", "192.168.127.1")
        link.settimeout(20)
        made = Card(guest, process, link)
        made.answer_arp()
        yield made
        link.close()
        process.stop()
    finally:
        guest.close()


def frames_of(link: socket.socket, seconds: float) -> list[bytes]:
    """All whole frames that arrive in that time."""
    data = bytearray()
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        link.settimeout(left)
        try:
            data += link.recv(1 << 20)
        except TimeoutError:
            break
    frames, at = [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            break
        frames.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return frames


def udp_frame(payload: bytes) -> bytes:
    udp = struct.pack("!HHHH", 7, UDP_PORT, 8 + len(payload), 0) + payload  # checksum 0: none
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + GATEWAY + GUEST
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", 0xFFFF - total) + ip[12:]
    return GUEST_MAC + GATEWAY_MAC + b"\x08\x00" + ip + udp


_FLOOD = """
import socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for index in range(4000):
    out.sendto(bytes(1400), ("192.168.127.1", 9))
"""
_COUNT = f"""
import socket, sys
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
taken.bind(("0.0.0.0", {UDP_PORT}))
print("bound", flush=True)
taken.settimeout(3)
count = 0
try:
    while count < 2000:
        taken.recv(2048)
        count += 1
except TimeoutError:
    pass
print(count, flush=True)
"""


@pytest.mark.parametrize("flags", [(), ("--plain",)])
def test_a_peer_that_stops_reading_still_reaches_the_guest(flags: tuple[str, ...], tmp_path: Path) -> None:
    with card(tmp_path, *flags) as nic:
        receiver = nic.guest.spawn([sys.executable, "-c", _COUNT], subprocess.PIPE)
        assert receiver.popen.stdout is not None
        assert receiver.popen.stdout.readline() == b"bound\n"
        nic.guest.run(sys.executable, "-c", _FLOOD)  # far more than the socket keeps; nobody reads it
        for index in range(2000):
            nic.send(udp_frame(index.to_bytes(4, "big") * 300))
        assert receiver.popen.stdout.readline() == b"2000\n"
        receiver.stop()
        assert nic.process.alive()


@pytest.mark.parametrize("flags", [(), ("--plain",)])
def test_frames_of_the_guest_keep_to_the_mtu(flags: tuple[str, ...], tmp_path: Path) -> None:
    with card(tmp_path, *flags) as nic:
        nic.guest.run(sys.executable, "-c", _FLOOD.replace("4000", "20"))
        frames = [frame for frame in frames_of(nic.link, 0.5) if frame[12:14] == b"\x08\x00"]
        assert sum(frame[23] == 17 for frame in frames) == 20
        assert max(map(len, frames)) <= 1514


def test_the_card_ends_when_its_peer_does(tmp_path: Path) -> None:
    with card(tmp_path) as nic:
        nic.link.close()
        netns.wait_for(lambda: not nic.process.alive(), "the card has ended")
        assert nic.process.stop() == 0


def test_a_length_out_of_range_ends_the_card_with_an_error(tmp_path: Path) -> None:
    with card(tmp_path) as nic:
        nic.link.sendall(struct.pack("!I", 131073) + bytes(64))
        netns.wait_for(lambda: not nic.process.alive(), "the card has ended")
        assert nic.process.stop() == 1


def test_a_namespace_ends_with_its_last_user() -> None:
    namespace = Namespace()
    pid = namespace.pid
    namespace.close()
    assert not os.path.exists(f"/proc/{pid}")


def test_each_direction_has_its_own_process(tmp_path: Path) -> None:
    """Both directions at once: nothing lost on the way in while the way out is read slowly."""
    with card(tmp_path) as nic:
        receiver = nic.guest.spawn([sys.executable, "-c", _COUNT], subprocess.PIPE)
        assert receiver.popen.stdout is not None
        receiver.popen.stdout.readline()
        reader = threading.Thread(target=frames_of, args=(nic.link.dup(), 1.0))
        reader.start()
        flood = nic.guest.spawn([sys.executable, "-c", _FLOOD])
        for index in range(2000):
            nic.send(udp_frame(index.to_bytes(4, "big") * 300))
        assert receiver.popen.stdout.readline() == b"2000\n"
        reader.join()
        flood.stop()
        receiver.stop()
