"""Guests of packet links: the guest's end of a vfkit (datagram) or bess (packet) link, with real sockets."""

import socket
from pathlib import Path

from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.links.base import MAX_BACKLOG, Link
from pipeline.links.datagram import DatagramLink
from pipeline.links.seqpacket import SeqpacketLink

SLOTS = [memoryview(bytearray(SLOT_BYTES)) for _ in range(6)]


class VfkitGuest:
    """A pair of bound datagram sockets."""

    def __init__(self, folder: Path, mtu: int = 1500, slot_count: int = 6) -> None:
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.bind(str(folder / "net.sock"))
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(folder / "vm.sock"))
        self.sock.setblocking(False)
        ours.connect(str(folder / "vm.sock"))
        self.path = str(folder / "net.sock")
        self.pool = Pool(0, slot_count)
        self.link = DatagramLink(ours, self.pool, SLOTS, mtu)

    def send(self, *frames: bytes) -> None:
        """Send frames as the guest."""
        for frame in frames:
            self.sock.sendto(frame, self.path)


class BessGuest:
    """A pair of packet sockets."""

    def __init__(self, max_backlog: int = MAX_BACKLOG) -> None:
        self.ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.pool = Pool(0, 6)
        self.link = SeqpacketLink(self.ours, self.pool, SLOTS, max_backlog=max_backlog)

    def send(self, *frames: bytes) -> None:
        """Send frames as the guest."""
        for frame in frames:
            self.sock.send(frame)


def read(link: Link) -> list[bytes] | None:
    """Read one burst, and copy its frames out of the slot."""
    burst = link.read_burst()
    if burst is None:
        return None
    return [bytes(SLOTS[burst[0]][off : off + length]) for off, length in burst[1]]
