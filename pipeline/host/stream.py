"""One host stream socket of a flow: ranges from the guest go out of slots, host bytes come into slots.

Life cycle of the two directions, which end independently (half-close):

=============  ==========================================  =====================================
direction      goes on while                                ends by
=============  ==========================================  =====================================
to the host    ranges arrive; ``writable`` after an edge    ``finish_writing`` once the queue is out
from the host  ``readable`` after an edge                   ``read`` returning 0
=============  ==========================================  =====================================

The socket is registered edge-triggered by the owner, who sets ``readable`` and ``writable``
on events; this class clears them when the system says that it would block.
"""

import socket
from collections import deque
from collections.abc import Callable

from pipeline.host import tcp

Range = tuple[int, int, int, int, int, int]
"""(slot, off, stride, gso_size, skip, length), see pipeline.shm.descriptor."""


class HostStream:
    """A connected (or connecting) non-blocking stream socket with its queue of ranges for the host."""

    __slots__ = (
        "_finish_when_empty",
        "_queue",
        "_slots",
        "_spilled",
        "_spilled_bytes",
        "first",
        "queued_bytes",
        "readable",
        "sock",
        "writable",
        "write_finished",
    )

    def __init__(self, sock: socket.socket, slots: list[memoryview]) -> None:
        self.sock = sock
        self._slots = slots
        self._queue: deque[Range] = deque()
        self._spilled: deque[memoryview] = deque()
        """Bytes that go before the queue: copied out of their slots while the host did not read."""
        self._spilled_bytes = 0
        self.first = b""
        """What read() gives before anything that the socket says."""
        self._finish_when_empty = False
        self.queued_bytes = 0
        self.readable = False
        self.writable = False
        self.write_finished = False

    @property
    def queued_refs(self) -> int:
        """References to slots that the queue holds."""
        return len(self._queue)

    def enqueue(self, piece: Range) -> None:
        """Take over the reference to a range that the host socket shall get."""
        self._queue.append(piece)
        self.queued_bytes += piece[5]

    def finish_writing(self) -> None:
        """Send the FIN when all queued ranges are out (at the next flush)."""
        self._finish_when_empty = True

    def flush(self, free: Callable[[int], None]) -> int:
        """Write what the socket takes; give references of written ranges to free.

        Returns the bytes taken. Raises OSError when the connection is broken.
        """
        taken = 0
        queue = self._queue
        while self.writable and (queue or self._spilled):
            parts, wanted = self._gather()
            try:
                sent = self.sock.send(parts[0]) if len(parts) == 1 else self.sock.sendmsg(parts)
            except BlockingIOError:
                self.writable = False
                break
            taken += sent
            if sent < wanted:
                self.writable = False
            self._drop_front(sent, free)
        self.queued_bytes -= taken
        if self._finish_when_empty and not self.queued_bytes and not self.write_finished:
            self.write_finished = True
            tcp.shutdown_write(self.sock)
        return taken

    def _gather(self) -> tuple[list[memoryview], int]:
        """What the next system call shall send, in at most IOV_MAX parts, and its length."""
        queue = self._queue
        slots = self._slots
        if len(queue) == 1 and not self._spilled:
            slot, off, stride, gso_size, skip, length = queue[0]
            parts = tcp.pieces(slots[slot], off, stride, gso_size, skip, length)
            wanted = length
        else:
            parts = list(self._spilled)
            wanted = self._spilled_bytes
            for slot, off, stride, gso_size, skip, length in queue:
                parts += tcp.pieces(slots[slot], off, stride, gso_size, skip, length)
                wanted += length
                if len(parts) >= tcp.IOV_MAX:
                    break
        if len(parts) > tcp.IOV_MAX:
            del parts[tcp.IOV_MAX :]
            wanted = sum(map(len, parts))
        return parts, wanted

    def spill(self, free: Callable[[int], None]) -> int:
        """Copy everything queued out of its slots and give those back: the host does not read now.

        Returns the bytes copied. What may be queued is bounded by the window that the guest was shown.
        """
        copied = self.queued_bytes - self._spilled_bytes
        if copied:
            parts: list[memoryview] = []
            for slot, off, stride, gso_size, skip, length in self._queue:
                parts += tcp.pieces(self._slots[slot], off, stride, gso_size, skip, length)
            self._spilled.append(memoryview(b"".join(parts)))
            self._spilled_bytes += copied
            for piece in self._queue:
                free(piece[0])
            self._queue.clear()
        return copied

    def _drop_front(self, count: int, free: Callable[[int], None]) -> None:
        queue = self._queue
        while self._spilled and count:
            first = self._spilled.popleft()
            taken = min(count, len(first))
            if taken < len(first):
                self._spilled.appendleft(first[taken:])
            self._spilled_bytes -= taken
            count -= taken
        while count:
            slot, off, stride, gso_size, skip, length = queue[0]
            if count < length:
                queue[0] = (slot, off, stride, gso_size, skip + count, length - count)
                return
            queue.popleft()
            free(slot)
            count -= length

    def read(self, view: memoryview) -> int:
        """Receive into view: bytes read, 0 at the end of the stream, -1 when nothing is there now.

        Raises OSError when the connection is broken.
        """
        if self.first:
            count = min(len(self.first), len(view))
            view[:count] = self.first[:count]
            self.first = self.first[count:]
            return count
        try:
            return self.sock.recv_into(view)
        except BlockingIOError:
            self.readable = False
            return -1

    def discard_queue(self, free: Callable[[int], None]) -> None:
        """Give back all queued references: the host will not get these bytes."""
        for piece in self._queue:
            free(piece[0])
        self._queue.clear()
        self._spilled.clear()
        self._spilled_bytes = 0
        self.queued_bytes = 0
