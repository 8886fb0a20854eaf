"""The frontend of a vhost-user connection: it plays the monitor and the driver of a virtio network card.

It is written from the specifications, and shares no code with the backend in pipeline/. So it finds what both
sides of a misunderstanding would hide. perf.vhost_nic puts a tap behind it. Tests use it to lie, too.

::

    memory (memfd)   page 0..  the rings, RING_ROOM bytes for each | receive buffers | transmit buffers

Each receive buffer has one descriptor and always the same one. A transmit buffer holds one frame after its
virtio-net header.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import select
import socket
import struct
import threading
from typing import Final

GUEST_BASE: Final = 0x4000_0000
USER_BASE: Final = 0x7000_0000_0000
RING_ROOM: Final = 64 * 1024
HEADER: Final = 12
LONGEST: Final = 12 + 14 + 0xFFFF + 64

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_NUM, SET_ADDR, SET_BASE, GET_BASE, SET_KICK, SET_CALL = 8, 9, 10, 11, 12, 13
GET_PROTOCOL, SET_PROTOCOL, GET_QUEUE_NUM, ENABLE = 15, 16, 17, 18
REPLY_ACK: Final = 1 << 3

CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG = (
    1,
    2,
    1 << 7,
    1 << 8,
    1 << 11,
    1 << 12,
    1 << 15,
)
INDIRECT, EVENT_IDX, PROTOCOL, VERSION_1 = 1 << 28, 1 << 29, 1 << 30, 1 << 32
GUEST_USO4, GUEST_USO6, HOST_USO = 1 << 54, 1 << 55, 1 << 56
WANTED: Final = (
    CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6 | MRG | INDIRECT | EVENT_IDX
    | PROTOCOL | VERSION_1 | HOST_USO
)  # fmt: skip
"""What a Linux guest accepts."""
PLAIN: Final = MRG | INDIRECT | EVENT_IDX | PROTOCOL | VERSION_1
"""A guest that leaves no work to others."""

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_LOCK = threading.Lock()


class FrontendError(RuntimeError):
    """The backend closed the connection, or answered what it may not answer."""


def fence() -> None:
    """Order a store before a load: taking a lock is a locked instruction."""
    with _LOCK:
        pass


class Memory:
    """The guest's memory, in a file that cannot shrink."""

    def __init__(self, size: int, seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) -> None:
        self.size = size
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        if seals:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        self.map = mmap.mmap(self.fd, size)
        self.view = memoryview(self.map)
        self.words = self.view.cast("H")

    def close(self) -> None:
        """Give the memory back, unless a view of it is still somewhere."""
        os.close(self.fd)
        self.words.release()
        with contextlib.suppress(BufferError):
            self.view.release()
            self.map.close()


class DriverRing:
    """The driver's side of a split virtqueue."""

    def __init__(self, memory: Memory, size: int, at: int, event_idx: bool) -> None:
        self.memory = memory
        self.size = size
        self.table = at
        self.avail = at + size * 16
        self.used = (self.avail + 6 + size * 2 + 3) // 4 * 4
        self.event_idx = event_idx
        self.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.added = 0
        self.kicked = 0
        self.seen = 0
        memory.view[at : at + RING_ROOM] = bytes(RING_ROOM)

    def describe(self, number: int, at: int, length: int, flags: int, following: int = 0) -> None:
        """Write a descriptor of memory at an offset."""
        _DESCRIPTOR.pack_into(
            self.memory.view, self.table + 16 * number, GUEST_BASE + at, length, flags, following
        )

    def add(self, head: int) -> None:
        """Put a chain into the available ring. The device sees it after publish()."""
        self.memory.words[(self.avail + 4 + 2 * (self.added % self.size)) >> 1] = head
        self.added = (self.added + 1) & 0xFFFF

    def publish(self) -> None:
        """Let the device see what was added, and kick it if it wants that."""
        words = self.memory.words
        if self.added == self.kicked:
            return
        words[(self.avail + 2) >> 1] = self.added
        fence()
        old, self.kicked = self.kicked, self.added
        if self.event_idx:
            event = words[(self.used + 4 + 8 * self.size) >> 1]
            wanted = (self.added - event - 1) & 0xFFFF < (self.added - old) & 0xFFFF
        else:
            wanted = not words[self.used >> 1] & 1
        if wanted:
            os.eventfd_write(self.kick, 1)

    def completed(self) -> list[tuple[int, int]]:
        """(head, bytes written) of each chain that the device has given back."""
        view, words = self.memory.view, self.memory.words
        count = (words[(self.used + 2) >> 1] - self.seen) & 0xFFFF
        begin = self.used + 4
        found = [
            _USED.unpack_from(view, begin + 8 * ((self.seen + number) % self.size)) for number in range(count)
        ]
        self.seen = (self.seen + count) & 0xFFFF
        return found

    def want_call(self) -> bool:
        """Ask for a call when the next chain comes back. Returns whether one has come back meanwhile."""
        words = self.memory.words
        if self.event_idx:
            words[(self.avail + 4 + 2 * self.size) >> 1] = self.seen
        else:
            words[self.avail >> 1] = 0
        fence()
        return words[(self.used + 2) >> 1] != self.seen

    def wait(self, timeout: float | None = None) -> None:
        """Wait for a call."""
        select.select([self.call], [], [], timeout)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.call)

    def close(self) -> None:
        """Close the eventfds."""
        os.close(self.kick)
        os.close(self.call)


class Frontend:
    """A connection to a backend, with rings in memory of its own."""

    def __init__(
        self,
        *,
        ring_size: int = 256,
        buffer_bytes: int = 1536,
        transmit_buffers: int = 64,
        wanted: int = WANTED,
        seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW,
    ) -> None:
        """buffer_bytes: of a receive buffer. wanted: the features to accept, if they are offered."""
        self.ring_size = ring_size
        self.buffer_bytes = buffer_bytes
        self.transmit_buffers = min(transmit_buffers, ring_size)
        self.wanted = wanted
        self.offered = 0
        self.features = 0
        self.protocol = 0
        self.receive_at = 2 * RING_ROOM
        self.transmit_at = self.receive_at + ring_size * buffer_bytes
        size = self.transmit_at + self.transmit_buffers * LONGEST
        self.memory = Memory((size + 4095) // 4096 * 4096, seals)
        self.sock = socket.socket(socket.AF_UNIX)
        self.receive: DriverRing
        self.transmit: DriverRing
        self._free: list[int] = []

    # --- messages -----------------------------------------------------------------------

    def connect(self, path: str) -> None:
        """Connect to the backend's socket."""
        self.sock.close()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10.0)
        self.sock.connect(path)

    def send(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = (), flags: int = 1) -> None:
        """Send a message."""
        message = struct.pack("<III", request, flags, len(payload)) + payload
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([message], rights)

    def tell(self, request: int, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send a message without answer. With REPLY_ACK the backend acknowledges it."""
        if not self.protocol & REPLY_ACK:
            self.send(request, payload, fds)
            return
        self.send(request, payload, fds, 1 | 8)
        answer = self.answer(request)
        if struct.unpack("<Q", answer) != (0,):
            raise FrontendError(f"request {request} was refused: {answer!r}")

    def answer(self, request: int) -> bytes:
        """The payload of the answer to a request."""
        return self.answer_with_fds(request)[0]

    def answer_with_fds(self, request: int) -> tuple[bytes, list[int]]:
        """The payload of the answer to a request, and its descriptors."""
        header, fds, _, _ = socket.recv_fds(self.sock, 12, 1)
        if len(header) < 12:
            raise FrontendError(f"the backend has left at request {request}")
        found, flags, size = struct.unpack("<III", header)
        if (found, flags & 7) != (request, 5):
            raise FrontendError(f"an answer to {found} with flags {flags}, not to {request}")
        payload = b""
        while len(payload) < size:
            part = self.sock.recv(size - len(payload))
            if not part:
                raise FrontendError(f"the backend has left at request {request}")
            payload += part
        return payload, list(fds)

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """Send a request, and return the payload of its answer."""
        self.send(request, payload)
        return self.answer(request)

    # --- the handshake --------------------------------------------------------------------

    def negotiate(self) -> None:
        """Agree on features, and share the memory."""
        self.protocol = 0
        (self.offered,) = struct.unpack("<Q", self.ask(GET_FEATURES))
        self.send(SET_OWNER)
        self.features = self.offered & self.wanted
        if self.features & PROTOCOL:
            (offered,) = struct.unpack("<Q", self.ask(GET_PROTOCOL))
            self.send(SET_PROTOCOL, struct.pack("<Q", offered & REPLY_ACK))
            self.protocol = offered & REPLY_ACK
        self.tell(SET_FEATURES, struct.pack("<Q", self.features))
        self.share()

    def share(self) -> None:
        """Send the table of memory."""
        table = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", GUEST_BASE, self.memory.size, USER_BASE, 0)
        self.tell(SET_MEM_TABLE, table, (self.memory.fd,))

    def make_rings(self) -> None:
        """Empty rings, and buffers in the one for receiving."""
        event_idx = bool(self.features & EVENT_IDX)
        self.receive = DriverRing(self.memory, self.ring_size, 0, event_idx)
        self.transmit = DriverRing(self.memory, self.ring_size, RING_ROOM, event_idx)
        for number in range(self.ring_size):
            self.receive.describe(number, self.receive_at + number * self.buffer_bytes, self.buffer_bytes, 2)
            self.receive.add(number)
        for number in range(self.transmit_buffers):
            self.transmit.describe(number, self.transmit_at + number * LONGEST, 0, 0)
        self._free = list(range(self.transmit_buffers))
        # The device is told by the kick descriptor that the rings are there.
        self.receive.publish()

    def start(self) -> None:
        """Describe the rings to the backend, and enable them."""
        for index, ring in enumerate((self.receive, self.transmit)):
            self.tell(SET_NUM, struct.pack("<II", index, ring.size))
            self.tell(SET_BASE, struct.pack("<II", index, ring.seen))
            places = [USER_BASE + at for at in (ring.table, ring.used, ring.avail)]
            self.tell(SET_ADDR, struct.pack("<IIQQQQ", index, 0, *places, 0))
            self.tell(SET_KICK, struct.pack("<Q", index), (ring.kick,))
            self.tell(SET_CALL, struct.pack("<Q", index), (ring.call,))
        if self.features & PROTOCOL:
            for index in (0, 1):
                self.tell(ENABLE, struct.pack("<II", index, 1))

    def stop(self) -> tuple[int, int]:
        """Stop the rings. Returns the bases that the backend reports."""
        bases = [struct.unpack("<II", self.ask(GET_BASE, struct.pack("<II", index, 0))) for index in (0, 1)]
        return bases[0][1], bases[1][1]

    def open(self, path: str) -> None:
        """Connect, and have a running card."""
        self.connect(path)
        self.negotiate()
        self.make_rings()
        self.start()

    def reopen(self, path: str) -> None:
        """Connect again. The rings go on where they are."""
        self.connect(path)
        self.negotiate()
        self.start()

    def close(self) -> None:
        """Disconnect, and give the rings' descriptors back. The memory goes with this object."""
        self.sock.close()
        for ring in (getattr(self, "receive", None), getattr(self, "transmit", None)):
            if ring is not None:
                ring.close()
        self.memory.close()

    # --- frames ---------------------------------------------------------------------------

    def free_buffer(self) -> int:
        """The number of a free transmit buffer, -1 if there is none."""
        if not self._free:
            self._free += [head for head, _ in self.transmit.completed()]
        return self._free.pop() if self._free else -1

    def buffer(self, number: int) -> memoryview:
        """The memory of a transmit buffer."""
        at = self.transmit_at + number * LONGEST
        return self.memory.view[at : at + LONGEST]

    def give_back(self, number: int) -> None:
        """A buffer of free_buffer() was not used."""
        self._free.append(number)

    def queue(self, number: int, length: int) -> None:
        """Send the first bytes of a transmit buffer: header and frame. The device sees them at publish()."""
        self.transmit.describe(number, self.transmit_at + number * LONGEST, length, 0)
        self.transmit.add(number)

    def send_frame(self, frame: bytes, header: bytes = bytes(HEADER)) -> None:
        """Send one frame."""
        number = self.free_buffer()
        assert number >= 0, "no buffer is free"
        data = header + frame
        self.buffer(number)[: len(data)] = data
        self.queue(number, len(data))
        self.transmit.publish()

    def received(self) -> list[list[memoryview]]:
        """The frames that have arrived, each as its buffers. The first begins with the header.

        They are valid until refill().
        """
        view, width, start = self.memory.view, self.buffer_bytes, self.receive_at
        frames: list[list[memoryview]] = []
        left = 0
        for head, length in self.receive.completed():
            at = start + head * width
            part = view[at : at + length]
            self.receive.add(head)
            if left:
                frames[-1].append(part)
                left -= 1
            else:
                left = int.from_bytes(part[10:12], "little") - 1
                frames.append([part])
        if left:
            raise FrontendError("the device has given back a part of a frame")
        return frames

    def refill(self) -> None:
        """Give the buffers of received() to the device again."""
        self.receive.publish()
