"""Links on byte streams: each frame follows its length (QEMU, /connect, vpnkit after its handshake).

One system call reads what has arrived, as much as fits into the rest of a slot. If the slot ends within a
frame, the link copies the part that it has into the next slot. That is at most one frame. A frame that is
longer than a slot is skipped as it arrives, and counted.

One system call sends a burst. The link copies only what the socket does not accept, so the caller may reuse
its memory.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from pipeline.links.addresses import words_of
from pipeline.links.base import (
    HEADROOM,
    MAX_BACKLOG,
    MIN_READ,
    Buffer,
    Burst,
    Link,
    LinkClosed,
    SlotPool,
)
from pipeline.links.places import BEGIN, END, READING, SENDING, SKIP, SLOT, private_row
from pipeline.records.kinds import NO_SLOT
from pipeline.system import socket_calls
from pipeline.wire import framing
from pipeline.wire.framing import Framing, LengthError

IOV_MAX: Final = 1024
SOCKET_BUFFER_BYTES: Final = 1024 * 1024
"""Buffer size that the link asks for in both directions of a local stream. The system may grant less."""
MAX_CARRY: Final = 16384
"""A partial frame longer than this stays in its slot if its rest fits there."""

_OVERSIZED: Final = "link_frame_dropped_oversized"
_BAD_HEADER: Final = "link_frame_dropped_bad_vnet_header"
_HTTP: Final[dict[int, str]] = {
    int.from_bytes(word.encode(), "big"): word.strip() for word in ("POST", "GET ", "HEAD", "PUT ")
}
"""Lengths that are the first bytes of a request, in framings whose length has four bytes."""


class ByteStream(Protocol):
    """What a link needs from a stream. A socket has it. No method blocks. All but close() raise OSError."""

    def setblocking(self, flag: bool, /) -> None:
        """The link calls this once, with False."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read some bytes. Returns 0 at the end."""
        ...

    def send(self, data: Buffer, /) -> int:
        """Write as much as fits."""
        ...

    def sendmsg(self, buffers: Sequence[Buffer], /) -> int:
        """Write as much as fits of several buffers."""
        ...

    def fileno(self) -> int:
        """The descriptor to poll."""
        ...

    def close(self) -> None:
        """May be called twice."""


class StreamLink(Link):
    """A guest on a connected stream socket. The link owns the socket."""

    def __init__(
        self,
        sock: ByteStream,
        form: Framing,
        pool: SlotPool,
        slots: list[memoryview],
        head: bytes = b"",
        max_backlog: int = MAX_BACKLOG,
    ) -> None:
        """head: bytes of the stream that another part has already read."""
        super().__init__(pool, slots)
        sock.setblocking(False)
        if isinstance(sock, socket.socket):
            tune(sock)
        self._sock = sock
        self._recv_into = sock.recv_into
        self._socket = sock if isinstance(sock, socket.socket) else None
        """The same, if it is a socket."""
        self._framing = form
        self._head = memoryview(head)
        self._to_skip = 0
        """Bytes to come of a frame that is longer than a slot. Until then cursor.begin equals cursor.end."""
        self._emptied = False
        """Whether the last read emptied the socket. The link may still hold frames of it."""
        self._max_backlog = max_backlog
        self._backlog = bytearray()
        self._backlog_sent = 0
        self._place = private_row()

    def keep_place(self, row: memoryview, skip: int = 0) -> None:
        """Write down in this row where the link is, from now on. The link is new.

        skip: bytes to come of a frame that is too long, of which a predecessor has read the beginning.
        """
        self._place = row
        self._to_skip = skip
        self._write_place()

    def carried(self) -> tuple[bytes, int, bytes]:
        """What another process needs to carry the link on: the bytes that were read and not yet handed out,
        bytes to skip, and bytes that the guest must get before all others."""
        cursor = self._cursor
        head = bytes(cursor.view[cursor.begin : cursor.end]) + bytes(self._head)
        return head, self._to_skip, bytes(self._backlog[self._backlog_sent :])

    def owe(self, backlog: bytes) -> None:
        """The guest must get these bytes before all others. The link is new."""
        self._backlog += backlog
        self._place[SENDING] = 1 if backlog else 0

    def _write_place(self) -> None:
        """A read is complete. Bytes in private memory would be lost, so with these the place is uncertain."""
        place, cursor = self._place, self._cursor
        place[SLOT] = cursor.slot
        place[BEGIN] = cursor.begin
        place[END] = cursor.end
        place[SKIP] = self._to_skip
        place[READING] = 1 if self._head else 0

    @property
    def framing(self) -> Framing:
        """The length before each frame."""
        return self._framing

    @property
    def blocked(self) -> bool:
        """Whether copied bytes wait for the guest to read."""
        return bool(self._backlog)

    @property
    def backlog_bytes(self) -> int:
        """Bytes copied and not yet sent."""
        return len(self._backlog) - self._backlog_sent

    def fileno(self) -> int:
        """The socket's descriptor, -1 when closed."""
        return self._sock.fileno()

    # --- from the guest ----------------------------------------------------------------

    def on_readable(self, short_is_all: bool) -> None:
        """See Link.on_readable."""
        super().on_readable(short_is_all)
        self._emptied = False

    def read_burst(self) -> Burst | None:
        """Read once, and return the frames that are now complete. See Link.read_burst.

        Frames above frame_limit wait in the slot. The next calls return these, and do not read.
        """
        self.starved = False
        if self.drained:
            self.drained = False
            return None
        if self.holds_frames:
            burst: Burst | None = self._hand_out(self._cursor.begin)
            self._write_place()
            return burst
        self._place[READING] = 1
        burst = self._read_burst()
        self._write_place()
        return burst

    def _read_burst(self) -> Burst | None:
        cursor = self._cursor
        if not self._make_room():
            self.starved = True
            return None
        begin, end = cursor.begin, cursor.end
        view = cursor.view
        room = min(len(view) - end, self.read_limit)
        if self._head:
            count = min(room, len(self._head))
            view[end : end + count] = self._head[:count]
            self._head = self._head[count:]
        else:
            try:
                sock = self._socket
                if sock is not None:
                    count = socket_calls.receive(sock, view[end : end + room])
                else:
                    count = self._recv_into(view[end : end + room])
            except BlockingIOError:
                return None
            except OSError as error:
                raise LinkClosed(f"cannot read size from socket: {words_of(error)}") from error
            if count < 0:
                return None
            if not count:
                raise LinkClosed("cannot read size from socket: EOF")
            self._emptied = self._short_is_all and count < room
        if self._to_skip:
            begin += self._skip(count)
            if begin == end + count:
                # The next read overwrites the skipped bytes.
                self.drained = self._emptied
                return cursor.slot, []
        cursor.end = end + count
        return self._hand_out(begin)

    def _hand_out(self, begin: int) -> Burst:
        """The whole frames between begin and the cursor's end, up to frame_limit. Raises LinkClosed."""
        cursor = self._cursor
        view, end = cursor.view, cursor.end
        try:
            frames, begin = self._split(view, begin, end)
            self.holds_frames = len(frames) >= self.frame_limit and self._is_whole(view, begin, end)
        except LengthError as error:
            # The frames before the bad length are lost too: nothing in this stream can be trusted now.
            text = f"invalid packet size: {error.length} is negative or exceeds maximum {self._framing.max}"
            if error.length in _HTTP:
                text += f' ("{_HTTP[error.length]}": an HTTP request, whose place is -listen)'
            raise LinkClosed(text, error.reason) from error
        cursor.begin = begin
        self.drained = self._emptied and not self.holds_frames
        header = self.vnet_len
        if header:
            # The length counts the virtio-net header.
            count = len(frames)
            frames = [(off + header, size - header) for off, size in frames if size >= header]
            if len(frames) < count:
                self.drops[_BAD_HEADER] = self.drops.get(_BAD_HEADER, 0) + count - len(frames)
        return cursor.slot, frames

    def _is_whole(self, view: memoryview, begin: int, end: int) -> bool:
        """Whether view[begin:end] begins with a whole frame."""
        return begin < end and not framing.need(view, begin, end, self._framing)

    def _skip(self, count: int) -> int:
        """Of count bytes just read, return how many belong to a frame that is too long for a slot.

        The frame is counted when its last byte has come.
        """
        skipped = min(count, self._to_skip)
        self._to_skip -= skipped
        if not self._to_skip:
            self.drops[_OVERSIZED] = self.drops.get(_OVERSIZED, 0) + 1
        return skipped

    def _split(self, view: memoryview, begin: int, end: int) -> tuple[list[tuple[int, int]], int]:
        """The first whole frames in view[begin:end], and where the next one begins. Raises LengthError."""
        return framing.split(view, begin, end, self._framing, self.frame_limit)

    def _make_room(self) -> bool:
        """Make room for the rest of the partial frame, and for a read that is worth a system call.

        False: that needs a fresh slot, and none is free.
        """
        cursor = self._cursor
        if cursor.slot == NO_SLOT:
            return cursor.fresh()
        room = len(cursor.view) - cursor.end
        if room >= MIN_READ and cursor.begin == cursor.end:
            return True
        wanted = framing.need(cursor.view, cursor.begin, cursor.end, self._framing)
        if cursor.end - cursor.begin + wanted > len(cursor.view) - HEADROOM:
            self._to_skip, wanted = wanted, 0
            cursor.end = cursor.begin
            room = len(cursor.view) - cursor.end
        if wanted <= room and (room >= MIN_READ or cursor.end - cursor.begin > MAX_CARRY):
            return True
        # If no slot is free, a short read is still better than none.
        return cursor.fresh() or 0 < room >= wanted

    # --- to the guest --------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Send all buffers with one call, and copy what the socket does not accept. See Link.send."""
        if self._backlog:
            total = sum(map(len, buffers))
            if self.backlog_bytes + total > self._max_backlog:
                return False
            for buffer in buffers:
                self._backlog += buffer
            return True
        place = self._place
        place[SENDING] = 1
        for first in range(0, len(buffers), IOV_MAX):
            chunk = buffers[first : first + IOV_MAX] if len(buffers) > IOV_MAX else buffers
            try:
                if len(chunk) != 1:
                    sent = self._sock.sendmsg(chunk)
                elif self._socket is not None:
                    sent = max(socket_calls.send(self._socket, chunk[0]), 0)
                else:
                    sent = self._sock.send(chunk[0])
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise LinkClosed(f"cannot write to socket: {words_of(error)}") from error
            if sent < _size_of(chunk):
                try:
                    self._keep(buffers, first, sent)
                except MemoryError as error:
                    # The guest has got a part of a frame, so its link cannot go on without the rest.
                    raise LinkClosed("no memory is left for frames that the guest does not read") from error
                return True
        place[SENDING] = 0
        return True

    def _keep(self, buffers: Sequence[Buffer], first: int, sent: int) -> None:
        """Copy buffers[first:] without their first ``sent`` bytes."""
        backlog = self._backlog
        for buffer in buffers[first:]:
            length = len(buffer)
            if sent >= length:
                sent -= length
            else:
                backlog += memoryview(buffer)[sent:]
                sent = 0

    def flush(self) -> None:
        """Send copied bytes until none is left, or the socket is full again."""
        backlog = self._backlog
        while backlog:
            try:
                with memoryview(backlog) as view, view[self._backlog_sent :] as rest:
                    self._backlog_sent += self._sock.send(rest)
            except BlockingIOError:
                break
            except OSError as error:
                raise LinkClosed(f"cannot write to socket: {words_of(error)}") from error
            if self._backlog_sent < len(backlog):
                continue
            backlog.clear()
            self._backlog_sent = 0
            self._place[SENDING] = 0
        if self._backlog_sent > len(backlog) // 2:
            del backlog[: self._backlog_sent]
            self._backlog_sent = 0

    def close(self) -> None:
        """Give back the slot, discard copied bytes, close the socket."""
        self._cursor.release()
        self._backlog.clear()
        self._backlog_sent = 0
        self._sock.close()


def _size_of(buffers: Sequence[Buffer]) -> int:
    size = 0
    for buffer in buffers:
        size += len(buffer)
    return size


def tune(sock: socket.socket) -> None:
    """Ask for larger buffers on a local stream, and switch off Nagle on TCP, which sizes its own buffers."""
    # The link works without these options. If the system refuses them, it is only slower.
    with suppress(OSError):
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A peer that lost its power does not close its connection. Keep-alive finds that.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
