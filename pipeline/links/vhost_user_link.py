"""The link of a guest whose rings are in its memory (vhost-user). It copies between rings and slots.

The link is polled at the descriptor by which the guest *kicks* its transmit queue, and at that of the receive
queue for room. A kick is only a hint: what counts is the index in memory. While frames are read, the link
needs no kick. When it finds nothing, it asks for one, and looks again.

The link *calls* the guest when it has given buffers back, if the guest wants that, once for each burst.

Links and rings live shorter than the connection of the monitor (pipeline.links.vhost_user). That one owns
descriptors and memory.
"""

import os
import sys
from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import Final

from pipeline.engines.virtio.from_guest import FrameReader
from pipeline.engines.virtio.memory import RingError
from pipeline.engines.virtio.to_guest import FrameWriter
from pipeline.ipc import events as ev
from pipeline.links.addresses import words_of
from pipeline.links.base import MAX_BACKLOG, Buffer, Burst, Link, LinkClosed, SlotPool
from pipeline.records.kinds import NO_SLOT
from pipeline.wire import offload, virtio
from pipeline.wire.framing import Framing

if sys.platform != "win32":
    import fcntl

WAITED: Final = "vhost_user_send_paused_no_buffer"

_ONE: Final = Struct("=Q").pack(1)
_FLAGS: Final = os.O_RDWR | os.O_NONBLOCK


class RingDescriptors:
    """The eventfds of one ring; -1 for none. call may change while a link uses the ring."""

    __slots__ = ("call", "kick")

    def __init__(self) -> None:
        self.kick = -1
        self.call = -1

    def signal(self) -> None:
        """Call the guest. Raises LinkClosed."""
        if self.call < 0:
            return
        try:
            # The monitor has the same open file, and may have cleared the flag. Then a full counter blocks.
            fcntl.fcntl(self.call, fcntl.F_SETFL, _FLAGS)
            os.write(self.call, _ONE)
        except BlockingIOError:
            return  # the counter is full, so the guest has not looked at earlier calls
        except OSError as error:
            raise LinkClosed(f"cannot call the guest: {words_of(error)}") from error


class Queue:
    """A transmit queue: its reader and its descriptors."""

    __slots__ = ("descriptors", "reader")

    def __init__(self, reader: FrameReader, descriptors: RingDescriptors) -> None:
        self.reader = reader
        self.descriptors = descriptors


class VhostUserLink(Link):
    """The running queues of one guest."""

    write_mask = ev.READ | ev.EDGE

    def __init__(self, features: int, pool: SlotPool, slots: list[memoryview]) -> None:
        """features: those of the device that the driver has accepted. set_queues() follows at once."""
        super().__init__(pool, slots)
        self.vnet_len = offload.VNET_LEN
        self.features = virtio.left_to_us(features)
        self.guest_features = virtio.left_to_guest(features)
        self._queues: list[Queue] = []
        self._turn = 0
        self._writer: FrameWriter
        self._descriptors: RingDescriptors
        self._backlog: deque[bytes] = deque()
        """Whole frames with their framing. The first chunk lacks its first _backlog_sent bytes."""
        self._backlog_bytes = 0
        self._backlog_sent = 0

    def set_queues(self, queues: list[Queue], writer: FrameWriter, descriptors: RingDescriptors) -> None:
        """The transmit queues, that of pair 0 first, and the receive queue of pair 0."""
        self._queues = queues
        self._turn = 0
        self._writer = writer
        self._descriptors = descriptors

    def count_drop(self, reason: str) -> None:
        """Count a dropped frame."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    @property
    def framing(self) -> Framing:
        """A length before the virtio-net header of each frame. It never leaves this program."""
        return offload.FRAMING

    @property
    def blocked(self) -> bool:
        """Whether copied frames wait for buffers of the guest."""
        return bool(self._backlog)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of copied frames."""
        return self._backlog_bytes - self._backlog_sent

    def fileno(self) -> int:
        """The descriptor for kicks of the first transmit queue."""
        return self._queues[0].descriptors.kick

    def write_fileno(self) -> int:
        """The descriptor for kicks of the receive queue."""
        return self._descriptors.kick

    # --- from the guest ----------------------------------------------------------------

    def read_burst(self) -> Burst | None:
        """Read the frames of one transmit queue. The queues take turns. See Link.read_burst."""
        self.starved = False
        queues = self._queues
        try:
            for _ in range(len(queues)):
                queue = queues[self._turn]
                self._turn = (self._turn + 1) % len(queues)
                ring = queue.reader.ring
                if ring.pending() or ring.want_kick():
                    ring.refuse_kicks()
                    return self._read(queue)
        except RingError as error:
            raise LinkClosed(str(error), error.reason) from error
        return None

    def _read(self, queue: Queue) -> Burst | None:
        """Read the frames of a queue that has some."""
        cursor = self._cursor
        reader = queue.reader
        frames: list[tuple[int, int]] = []
        end = cursor.end
        if cursor.slot != NO_SLOT:
            frames, end = reader.read(cursor.view, end, end + self.read_limit, self.frame_limit)
        if not frames and reader.ring.pending():
            # There is no slot, or the next frame does not fit into its rest.
            if not cursor.fresh():
                self.starved = True
                return None
            begin = cursor.end
            frames, end = reader.read(cursor.view, begin, begin + self.read_limit, self.frame_limit)
        cursor.begin = cursor.end = end
        if reader.ring.publish():
            queue.descriptors.signal()
        return cursor.slot, frames

    # --- to the guest --------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Copy frames into the guest's buffers, and keep those for which it has none. See Link.send."""
        if self._backlog:
            if self.backlog_bytes + sum(map(len, buffers)) > MAX_BACKLOG:
                return False
            self._keep(b"".join(buffers))
            return True
        number, off = self._write(buffers)
        if number < len(buffers):
            rest = [memoryview(buffers[number])[off:], *buffers[number + 1 :]]
            self._keep(b"".join(rest))
            self.count_drop(WAITED)
            self._wait()
        return True

    def flush(self) -> None:
        """The guest has kicked: it may have room for copied frames. See Link.flush."""
        self._send_kept()
        self._wait()

    def _wait(self) -> None:
        """Ask for a kick, and send on while there is room already."""
        try:
            while self._backlog and self._writer.want_kick():
                self._send_kept()
            if not self._backlog:
                self._writer.ring.refuse_kicks()
        except RingError as error:
            raise LinkClosed(str(error), error.reason) from error

    def _send_kept(self) -> None:
        backlog = self._backlog
        if not backlog:
            return
        number, off = self._write([memoryview(backlog[0])[self._backlog_sent :], *list(backlog)[1:]])
        if not number:
            self._backlog_sent += off
            return
        for _ in range(number):
            self._backlog_bytes -= len(backlog.popleft())
        self._backlog_sent = off

    def _write(self, buffers: Sequence[Buffer]) -> tuple[int, int]:
        """Write frames, and call the guest if it wants that. Returns where the first that waits begins."""
        try:
            written = self._writer.write(buffers)
            wanted = self._writer.ring.publish()
        except RingError as error:
            raise LinkClosed(str(error), error.reason) from error
        if wanted:
            self._descriptors.signal()
        return written

    def _keep(self, frames: bytes) -> None:
        self._backlog.append(frames)
        self._backlog_bytes += len(frames)

    def close(self) -> None:
        """Give back the slot, and discard copied frames. The descriptors stay with their owner."""
        self._cursor.release()
        self._backlog.clear()
        self._backlog_bytes = self._backlog_sent = 0
