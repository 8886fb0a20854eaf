"""The host socket of one flow. It writes the guest's bytes from slots, and reads the host's bytes into slots.

A *run* is a range of bytes in a slot (pipeline.records.run). The two directions end independently
(half-close):

=============  ============================================  =====================================
direction      goes on while                                 ends by
=============  ============================================  =====================================
to the host    runs arrive; ``on_writable()`` after an edge  ``finish_writing()`` and an empty queue
from the host  ``on_readable()`` after an edge               ``read()`` returning 0
=============  ============================================  =====================================

The owner registers the socket edge-triggered and calls ``on_readable()`` and ``on_writable()``. This class
clears ``readable`` and ``writable`` when the system reports that a call would block, or when a call has moved
fewer bytes than it could.
"""

import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from pipeline.host import tcp
from pipeline.records.run import Run
from pipeline.system import socket_calls

SMALL_PART: Final = 4096
"""A part of fewer bytes is joined with the next one."""
MAY_BE_MORE: Final = 0
IS_ALL: Final = 1
IS_END: Final = 2
"""What a short read means, one that does not fill its view: there may be more, nothing more until the next
event, or nothing more at all. On a unix socket there may always be more: a read ends after bytes with which
the other end has passed descriptors."""


class HostStream:
    """A connected (or connecting) non-blocking stream socket with its queue of runs for the host."""

    def __init__(self, sock: socket.socket, slots: list[memoryview], head: bytes = b"") -> None:
        """head: bytes that read() returns before those of the socket."""
        self.sock = sock
        self.readable = False
        self.read_ended = False
        """Whether read() has returned the last bytes of the host."""
        self._is_tcp = tcp.is_tcp(sock)
        self._short_read = MAY_BE_MORE
        self._writes = 0
        """The number of writes, at most 2."""
        self.writable = False
        self.write_finished = False
        self.queued_bytes = 0
        """Bytes that the host socket has not taken. They are in slots, or spilled (copied out of slots)."""
        self.head = head
        self._slots = slots
        self._queue: deque[Run] = deque()
        self._spilled: deque[memoryview] = deque()
        """Bytes copied out of their slots while the host did not read. They are sent before the queue."""
        self._spilled_bytes = 0
        self._finish_when_empty = False
        self._close_sends_fin = False

    def change(self, sock: socket.socket) -> socket.socket:
        """Use another socket, to which nothing was written yet. Returns the one before."""
        before, self.sock = self.sock, sock
        self._is_tcp = tcp.is_tcp(sock)
        self.readable = self.writable = False
        self._writes = 0
        return before

    @property
    def queued_refs(self) -> int:
        """The number of references to slots that the queue holds."""
        return len(self._queue)

    def slots_held(self) -> list[int]:
        """The slots of the queue, one entry for each reference."""
        return [run.slot for run in self._queue]

    def on_readable(self, short_read: int = MAY_BE_MORE) -> None:
        """The poller reports that the socket has bytes, an end or an error for read().

        short_read: what a short read means. IS_ALL unless the event has reported an end, an error or urgent
        bytes: a read stops before these. IS_END if it has reported that the host sends no more, and neither
        of the others. Then the end follows the bytes that have arrived. A unix socket ignores this.
        """
        self.readable = True
        self._short_read = short_read if self._is_tcp else MAY_BE_MORE

    def on_writable(self) -> None:
        """The poller reports that the socket takes bytes."""
        self.writable = True

    def enqueue(self, run: Run) -> None:
        """Queue a run for the host socket. The queue takes over its reference."""
        self._queue.append(run)
        self.queued_bytes += run.length

    def finish_writing(self) -> None:
        """Send the FIN after all queued bytes. A flush() does it."""
        self._finish_when_empty = True

    def close_sends_fin(self) -> None:
        """The owner will close the socket as soon as ``write_finished`` is set, which sends the FIN.

        This saves the call of shutdown(). It needs a socket whose end of file was read: while there is
        something to read, closing sends a RST.
        """
        self._close_sends_fin = True

    def flush(self, free: Callable[[int], None]) -> int:
        """Write what the socket takes. Calls free(slot) for each run that is written completely.

        Returns the number of bytes written. Raises OSError if the connection is broken.
        """
        sent_bytes = 0
        queue = self._queue
        while self.writable and (queue or self._spilled):
            parts, wanted = self._gather()
            if self._writes < 2:
                self._writes += 1
                if self._writes == 2:
                    tcp.send_at_once(self.sock)
            sent = socket_calls.send(self.sock, parts[0]) if len(parts) == 1 else self._send_parts(parts)
            if sent < 0:
                self.writable = False
                break
            sent_bytes += sent
            if sent < wanted:
                self.writable = False
            self._drop_front(sent, free)
        self.queued_bytes -= sent_bytes
        if self._finish_when_empty and not self.queued_bytes and not self.write_finished:
            self.write_finished = True
            if not self._close_sends_fin:
                tcp.shutdown_write(self.sock)
        return sent_bytes

    def _send_parts(self, parts: list[memoryview]) -> int:
        try:
            return self.sock.sendmsg(parts)
        except BlockingIOError:
            return -1

    def _gather(self) -> tuple[list[memoryview], int]:
        """The parts that the next system call sends, at most IOV_MAX, and their total length."""
        queue = self._queue
        slots = self._slots
        if len(queue) == 1 and not self._spilled:
            run = queue[0]
            parts = run.views(slots[run.slot])
            wanted = run.length
        else:
            parts = list(self._spilled)
            wanted = self._spilled_bytes
            for run in queue:
                parts += run.views(slots[run.slot])
                wanted += run.length
                if len(parts) >= tcp.IOV_MAX:
                    break
        if len(parts) > tcp.IOV_MAX:
            del parts[tcp.IOV_MAX :]
            wanted = sum(map(len, parts))
        return parts, wanted

    @property
    def finishes(self) -> bool:
        """Whether no further run will be queued."""
        return self._finish_when_empty

    def first(self, most: int) -> bytes:
        """The first bytes of the queue, at least ``most`` if it has them. They stay in it."""
        parts: list[memoryview] = []
        found = 0
        for run in self._queue:
            parts += run.views(self._slots[run.slot])
            found += run.length
            if found >= most:
                break
        return b"".join(parts)

    def take(self, free: Callable[[int], None]) -> bytes:
        """Take all queued bytes out of the queue and their slots. put_back() queues them again."""
        self.spill(free)
        taken = b"".join(self._spilled)
        self._spilled.clear()
        self._spilled_bytes = 0
        self.queued_bytes = 0
        return taken

    def put_back(self, data: bytes) -> None:
        """Queue bytes before all that is queued. Nothing of them was sent."""
        if data:
            self._spilled.appendleft(memoryview(data))
            self._spilled_bytes += len(data)
            self.queued_bytes += len(data)

    def take_last(self, count: int, free: Callable[[int], None]) -> bytes:
        """Take so many bytes out of the end of the queue. All others are out of their slots then."""
        self.spill(free)
        self._spilled_bytes -= count
        self.queued_bytes -= count
        parts: deque[memoryview] = deque()
        while count:
            last = self._spilled.pop()
            taken = min(count, len(last))
            if taken < len(last):
                self._spilled.append(last[:-taken])
            parts.appendleft(last[-taken:])
            count -= taken
        return b"".join(parts)

    def put_last(self, data: bytes, free: Callable[[int], None]) -> None:
        """Queue bytes after all that is queued."""
        if not data:
            return
        self.spill(free)
        self._spilled_bytes += len(data)
        self.queued_bytes += len(data)
        if self._spilled and len(self._spilled[-1]) < SMALL_PART:
            # Each part has a price, and a guest may send bytes one by one.
            data = bytes(self._spilled.pop()) + data
        self._spilled.append(memoryview(data))

    def spill(self, free: Callable[[int], None]) -> int:
        """Copy all queued bytes out of their slots, and free the slots. For a host that does not read now.

        Returns the number of bytes copied. The receive window offered to the guest bounds the queue.
        """
        copied = self.queued_bytes - self._spilled_bytes
        if copied:
            parts: list[memoryview] = []
            for run in self._queue:
                parts += run.views(self._slots[run.slot])
            self._spilled.append(memoryview(b"".join(parts)))
            self._spilled_bytes += copied
            self._free_queue(free)
        return copied

    def _drop_front(self, count: int, free: Callable[[int], None]) -> None:
        queue = self._queue
        while self._spilled and count:
            first = self._spilled.popleft()
            dropped = min(count, len(first))
            if dropped < len(first):
                self._spilled.appendleft(first[dropped:])
            self._spilled_bytes -= dropped
            count -= dropped
        while count:
            run = queue[0]
            if count < run.length:
                run.drop_front(count)
                return
            queue.popleft()
            free(run.slot)
            count -= run.length

    def read(self, view: memoryview) -> int:
        """Read into view. Returns the number of bytes, 0 at the end of the stream, -1 if it would block.

        After the last bytes ``read_ended`` may be set. Then no read has to find the end.
        Raises OSError if the connection is broken.
        """
        if self.head:
            count = min(len(self.head), len(view))
            view[:count] = self.head[:count]
            self.head = self.head[count:]
            return count
        count = socket_calls.receive(self.sock, view)
        if count < 0:
            self.readable = False
            return -1
        if count < len(view) and self._short_read:
            self.readable = False
            self.read_ended = self._short_read == IS_END
        return count

    def on_read_end(self) -> None:
        """The host sends nothing more, so there is nothing to read."""
        self.readable = False

    def discard(self, free: Callable[[int], None]) -> None:
        """Drop all queued bytes and free their slots. The stream neither reads nor writes again."""
        self.readable = self.writable = False
        self._free_queue(free)
        self._spilled.clear()
        self._spilled_bytes = 0
        self.queued_bytes = 0

    def _free_queue(self, free: Callable[[int], None]) -> None:
        for run in self._queue:
            free(run.slot)
        self._queue.clear()
