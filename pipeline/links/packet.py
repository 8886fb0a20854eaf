"""Links on sockets that preserve packet boundaries (vfkit, bess): one packet is one frame.

Each packet costs a system call. The packets of a burst lie in one slot, one after another. Each starts at a
multiple of ALIGN, so frames of equal length lie at equal strides. If a packet is longer than the rest of the
slot, its end goes to a spill buffer. The next read joins both parts in a fresh slot. A guest that expects its
card to segment sends packets of 64 KiB, whatever the MTU (pipeline.engines.offload.stripped).

With begin_vnet() each packet begins with a virtio-net header (pipeline.links.vnet).
"""

import errno
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from pipeline.links import vnet
from pipeline.links.addresses import words_of
from pipeline.links.base import (
    HEADROOM,
    MAX_BACKLOG,
    Buffer,
    Burst,
    Link,
    LinkClosed,
    SlotPool,
)
from pipeline.records.kinds import NO_SLOT
from pipeline.wire import offload
from pipeline.wire.framing import Framing

MAX_PACKETS: Final = 64
"""The most packets of one burst."""
ALIGN: Final = 8
"""A packet starts at a multiple of this."""
ETHERNET_MARGIN: Final = 18
"""Bytes of a frame beyond the MTU: header and a VLAN tag."""
LONGEST_PACKET: Final = 0xFFFF + 40 + 14 + 8
"""Bytes of the longest frame that a link accepts: the longest IPv6 packet, in a frame with two tags."""

_OVERSIZED: Final = "link_frame_dropped_oversized"
_BAD_HEADER: Final = "link_frame_dropped_bad_vnet_header"
_FULL: Final = frozenset((errno.EAGAIN, errno.ENOBUFS))
"""The queue is full. Linux reports EAGAIN, macOS reports ENOBUFS."""


class PacketSocket(Protocol):
    """What a link needs of its socket, as socket.socket has it."""

    def setblocking(self, flag: bool, /) -> None: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def recvmsg_into(self, buffers: Sequence[memoryview], /) -> tuple[int, object, int, object]: ...
    def send(self, data: Buffer, /) -> int: ...
    def sendmsg(self, buffers: Sequence[Buffer], /) -> int: ...
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
        super().__init__(pool, slots)
        sock.setblocking(False)
        self._sock = sock
        self._room = min(mtu + ETHERNET_MARGIN, len(slots[0]) - HEADROOM - 1)
        self._longest = LONGEST_PACKET
        self._spill = memoryview(bytearray(LONGEST_PACKET))
        self._spilled = b""
        """A packet that waits for a fresh slot."""
        self._broken: LinkClosed | None = None
        self._max_backlog = max_backlog
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self.room_unreported = False
        """While blocked: the system will not report room (macOS), so the listener retries on a timer."""

    def begin_vnet(self, guest_features: int) -> None:
        """See Link.begin_vnet."""
        super().begin_vnet(guest_features)
        self._room += self.vnet_len
        self._longest += self.vnet_len
        self._spill = memoryview(bytearray(self._longest))

    @property
    def framing(self) -> Framing | None:
        """A length before each packet if it has a virtio-net header, since it may come in several buffers."""
        return offload.FRAMING if self.vnet_len else None

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
        limit = min(len(cursor.view) - self._room, cursor.end + self.read_limit)
        frames: list[tuple[int, int]] = []
        if self._spilled:
            count = len(self._spilled)
            cursor.view[cursor.end : cursor.end + count] = self._spilled
            self._spilled = b""
            self._add(frames, count)
        empty = False
        try:
            empty = self._read_packets(frames, limit)
        except OSError as error:
            self._broken = LinkClosed(self._end_text(error))
        except LinkClosed as error:
            self._broken = error
        finally:
            cursor.begin = cursor.end
        if frames:
            return cursor.slot, frames
        if self._broken is not None:
            raise self._broken
        return None if empty else (cursor.slot, frames)

    def _read_packets(self, frames: list[tuple[int, int]], limit: int) -> bool:
        """Read packets into the slot, up to limit, and add their frames. Returns whether none is left.

        Raises OSError or LinkClosed.
        """
        cursor = self._cursor
        view = cursor.view
        for _ in range(min(MAX_PACKETS, self.frame_limit) - len(frames)):
            end = cursor.end
            if end >= limit:
                break
            count = self._receive(view[end:])
            if count < 0:
                return True
            room = len(view) - end
            if count > self._longest:
                self._drop(_OVERSIZED)
            elif count > room:
                self._spilled = bytes(view[end:]) + bytes(self._spill[: count - room])
                break
            elif not self._is_frame(view, end, count):
                continue
            elif count < self.vnet_len:
                self._drop(_BAD_HEADER)
            else:
                self._add(frames, count)
        return False

    def _add(self, frames: list[tuple[int, int]], count: int) -> None:
        """The packet of count bytes at the end of the slot's bytes is a frame, after its header if any."""
        cursor, header = self._cursor, self.vnet_len
        frames.append((cursor.end + header, count - header))
        cursor.end += (count + ALIGN - 1) // ALIGN * ALIGN

    def _receive(self, room: memoryview) -> int:
        """Read a packet. Returns its length, -1 if there is none.

        Bytes beyond the room go to the spill buffer. Raises OSError or LinkClosed.
        """
        try:
            if len(room) > self._longest:
                return self._sock.recv_into(room)
            count: int = self._sock.recvmsg_into([room, self._spill])[0]
        except BlockingIOError:
            return -1
        return count

    def _end_text(self, error: OSError) -> str:
        """Why the link ended, if a read failed."""
        # A packet has no size field, but gvproxy uses these words for every kind of link.
        return f"cannot read size from socket: {words_of(error)}"

    def _is_frame(self, view: memoryview, off: int, length: int) -> bool:
        """Whether the packet is a frame. A protocol may also have packets that are messages of its own."""
        return True

    def _drop(self, reason: str) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1

    # --- to the guest --------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Each buffer is one frame, unless there is a framing. See Link.send."""
        if self._backlog and self._backlog_bytes + sum(map(len, buffers)) > self._max_backlog:
            return False
        if self.vnet_len:
            packets = vnet.packets(buffers)
            for number, parts in enumerate(packets):
                if self._backlog or not self._put(parts[0], parts):
                    self._keep([b"".join(each) for each in packets[number:]])
                    break
            return True
        for number, buffer in enumerate(buffers):
            if self._backlog or not self._put(buffer):
                self._keep(buffers[number:])
                break
        return True

    def _put(self, packet: Buffer, parts: Sequence[Buffer] = ()) -> bool:
        """Send one packet, or drop it if it can never be sent. False: the queue is full.

        parts: what the packet consists of, if it is more than one buffer.
        """
        try:
            if len(parts) > 1:
                self._sock.sendmsg(parts)
            else:
                self._sock.send(packet)
        except OSError as error:
            if error.errno in _FULL:
                self.room_unreported = error.errno == errno.ENOBUFS
                return False
            if error.errno != errno.EMSGSIZE:
                raise LinkClosed(f"cannot write packet to socket: {words_of(error)}") from error
            self._drop(_OVERSIZED)
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

    def close(self) -> None:
        """Give back the slot, discard copied frames, close the socket."""
        self._cursor.release()
        self._backlog.clear()
        self._backlog_bytes = 0
        self._sock.close()
