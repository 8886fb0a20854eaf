"""Links on sockets that preserve packet boundaries (vfkit, bess): one packet is one frame.

Each packet costs a system call. The packets of a burst lie in one slot, one after another. Each starts at a
multiple of ALIGN, so frames of equal length lie at equal strides. If a packet is longer than the rest of the
slot, its end goes to a spill buffer. The next read joins both parts in a fresh slot. A guest that expects its
card to segment sends packets of 64 KiB, whatever the MTU (pipeline.engines.offload.stripped).
"""

import errno
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from pipeline.links.addresses import words_of
from pipeline.links.base import (
    HEADROOM,
    MAX_BACKLOG,
    Buffer,
    Burst,
    Link,
    LinkClosed,
    SlotCursor,
    SlotPool,
)
from pipeline.records.kinds import NO_SLOT

MAX_PACKETS: Final = 64
"""The most packets of one burst."""
ALIGN: Final = 8
"""A packet starts at a multiple of this."""
ETHERNET_MARGIN: Final = 18
"""Bytes of a frame beyond the MTU: header and a VLAN tag."""
LONGEST_PACKET: Final = 0xFFFF + 40 + 14 + 8
"""Bytes of the longest packet that a link accepts: the longest IPv6 packet, in a frame with two tags."""

_FULL: Final = frozenset((errno.EAGAIN, errno.ENOBUFS))
"""The queue is full. Linux reports EAGAIN, macOS reports ENOBUFS."""


class PacketSocket(Protocol):
    """What a link needs of its socket, as socket.socket has it."""

    def setblocking(self, flag: bool, /) -> None: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def recvmsg_into(self, buffers: Sequence[memoryview], /) -> tuple[int, object, int, object]: ...
    def send(self, data: Buffer, /) -> int: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class PacketLink(Link):
    """A guest on a socket that preserves packet boundaries. The link owns the socket."""

    def __init__(
        self,
        sock: PacketSocket,
        pool: SlotPool,
        slots: list[memoryview],
        mtu: int = 1500,
        max_backlog: int = MAX_BACKLOG,
    ) -> None:
        """mtu: each packet gets at least this much room in the slot. A longer one may cost a copy."""
        super().__init__()
        sock.setblocking(False)
        self._sock = sock
        self._cursor = SlotCursor(pool, slots)
        self._room = min(mtu + ETHERNET_MARGIN, len(slots[0]) - HEADROOM - 1)
        self._spill = memoryview(bytearray(LONGEST_PACKET))
        self._spilled = b""
        """A packet that waits for a fresh slot."""
        self._broken: LinkClosed | None = None
        self._max_backlog = max_backlog
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self.room_unreported = False
        """While blocked: the system will not report room (macOS), so the listener retries on a timer."""

    @property
    def blocked(self) -> bool:
        """Whether copied frames wait for the guest to read."""
        return bool(self._backlog)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of copied frames."""
        return self._backlog_bytes

    def fileno(self) -> int:
        """The socket's descriptor, -1 when closed."""
        return self._sock.fileno()

    # --- from the guest ----------------------------------------------------------------

    def read_burst(self) -> Burst | None:
        """Read packets until the slot is full, none is left, or MAX_PACKETS are read. See Link.read_burst."""
        self.starved = False
        if self._broken is not None:
            raise self._broken
        cursor = self._cursor
        if cursor.slot == NO_SLOT or self._spilled or len(cursor.view) - cursor.end <= self._room:
            cursor.begin = cursor.end
            if not cursor.fresh():
                self.starved = True
                return None
        view = cursor.view
        limit = min(len(view) - self._room, cursor.end + self.read_limit)
        frames: list[tuple[int, int]] = []
        end = cursor.end
        if self._spilled:
            count = len(self._spilled)
            view[end : end + count] = self._spilled
            self._spilled = b""
            frames.append((end, count))
            end += (count + ALIGN - 1) // ALIGN * ALIGN
        try:
            for _ in range(MAX_PACKETS - len(frames)):
                if end >= limit:
                    break
                count = self._receive(view[end:])
                room = len(view) - end
                if count > LONGEST_PACKET:
                    self._drop("link_frame_dropped_oversized")
                elif count > room:
                    self._spilled = bytes(view[end:]) + bytes(self._spill[: count - room])
                    break
                elif self._is_frame(view, end, count):
                    frames.append((end, count))
                    end += (count + ALIGN - 1) // ALIGN * ALIGN
        except BlockingIOError:
            if not frames:
                return None
        except OSError as error:
            # A packet has no size field, but gvproxy uses these words for every kind of link.
            self._broken = LinkClosed(f"cannot read size from socket: {words_of(error)}")
        except LinkClosed as error:
            self._broken = error
        finally:
            cursor.begin = cursor.end = end
        if self._broken is not None and not frames:
            raise self._broken
        return cursor.slot, frames

    def _receive(self, room: memoryview) -> int:
        """Read a packet and return its length. Bytes beyond the room go to the spill buffer.

        Raises OSError or LinkClosed.
        """
        if len(room) > LONGEST_PACKET:
            return self._sock.recv_into(room)
        count: int = self._sock.recvmsg_into([room, self._spill])[0]
        return count

    def _is_frame(self, view: memoryview, off: int, length: int) -> bool:
        """Whether the packet is a frame. A protocol may also have packets that are messages of its own."""
        return True

    def _drop(self, reason: str) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1

    # --- to the guest --------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Each buffer is one frame. See Link.send."""
        if self._backlog:
            if self._backlog_bytes + sum(map(len, buffers)) > self._max_backlog:
                return False
            self._keep(buffers)
            return True
        for number, buffer in enumerate(buffers):
            if not self._put(buffer):
                self._keep(buffers[number:])
                break
        return True

    def _put(self, frame: Buffer) -> bool:
        """Send one frame, or drop it if it can never be sent. False: the queue is full."""
        try:
            self._sock.send(frame)
        except OSError as error:
            if error.errno in _FULL:
                self.room_unreported = error.errno == errno.ENOBUFS
                return False
            if error.errno != errno.EMSGSIZE:
                raise LinkClosed(f"cannot write packet to socket: {words_of(error)}") from error
            self._drop("link_frame_dropped_oversized")
        return True

    def _keep(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self._backlog.append(bytes(buffer))
            self._backlog_bytes += len(buffer)

    def flush(self) -> None:
        """Send copied frames until none is left, or the queue is full again."""
        backlog = self._backlog
        while backlog and self._put(backlog[0]):
            self._backlog_bytes -= len(backlog.popleft())

    def release_idle(self) -> None:
        """See Link.release_idle."""
        self._cursor.release_idle()

    def close(self) -> None:
        """Give back the slot, discard copied frames, close the socket."""
        self._cursor.release()
        self._backlog.clear()
        self._backlog_bytes = 0
        self._sock.close()
