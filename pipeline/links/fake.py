"""A link in memory, for tests and measurements: seeded loss, duplication and reordering, no socket.

``FakeLink`` stands where a real link stands; the test plays the guest with ``inject`` and
``taken``. ``Impairment`` alone serves whoever shuffles frames between two real ends.
"""

import random
from collections import deque
from collections.abc import Sequence

from pipeline.links.base import Buffer, Burst, Link, LinkClosed, SlotCursor, SlotPool


class Impairment:
    """One direction of a bad wire: frames in, the frames that come out now.

    loss, duplicate and reorder are probabilities (0 to 1) of a frame; a reordered one is
    held back until one to ``max_overtaken`` later ones have passed it.
    """

    def __init__(
        self,
        seed: int = 0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        max_overtaken: int = 4,
    ) -> None:
        self._random = random.Random(seed)
        self._lose = loss
        self._double = loss + duplicate
        self._hold = loss + duplicate + reorder
        self._max_overtaken = max_overtaken
        self._held: list[tuple[int, bytes]] = []
        self._passed = 0
        self.lost = self.duplicated = self.reordered = 0

    def apply(self, frame: bytes) -> list[bytes]:
        """What comes out because frame came in."""
        chance = self._random.random()
        if chance < self._lose:
            self.lost += 1
            return []
        if self._double <= chance < self._hold:
            self.reordered += 1
            self._held.append((self._passed + self._random.randint(1, self._max_overtaken), frame))
            return []
        if chance < self._double:
            self.duplicated += 1
        out = [frame, frame] if chance < self._double else [frame]
        self._passed += 1
        out += [held for due, held in self._held if due <= self._passed]
        self._held = [entry for entry in self._held if entry[0] > self._passed]
        return out

    def drain(self) -> list[bytes]:
        """All frames held back: nothing follows that could let them out."""
        out = [frame for _, frame in self._held]
        self._held.clear()
        return out


class FakeLink(Link):
    """A guest made of two queues. Buffers given to send() are one frame each, as on a datagram link."""

    def __init__(
        self,
        pool: SlotPool,
        slots: list[memoryview],
        from_guest: Impairment | None = None,
        to_guest: Impairment | None = None,
        capacity: int = 1 << 30,
    ) -> None:
        """capacity: bytes sent and not yet taken by the test, from which on the link is blocked."""
        super().__init__()
        self._cursor = SlotCursor(pool, slots)
        self._from_guest = from_guest or Impairment()
        self._to_guest = to_guest or Impairment()
        self._capacity = capacity
        self._incoming: deque[bytes] = deque()
        self._outgoing: list[bytes] = []
        self._backlog: list[bytes] = []
        self.hung_up = False
        self.closed = False

    # --- the guest's side ----------------------------------------------------------------

    def inject(self, *frames: bytes) -> None:
        """The guest sends frames."""
        for frame in frames:
            self._incoming.extend(self._from_guest.apply(frame))

    def settle(self) -> None:
        """Let out what both directions hold back."""
        self._incoming.extend(self._from_guest.drain())
        self._outgoing += self._to_guest.drain()

    def taken(self) -> list[bytes]:
        """The guest reads: frames since the last call."""
        frames, self._outgoing = self._outgoing, []
        return frames

    def hang_up(self) -> None:
        """The guest leaves, once what it sent is read."""
        self.hung_up = True

    # --- the link ------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """Whether frames wait for the test to take others."""
        return bool(self._backlog)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of those."""
        return sum(map(len, self._backlog))

    def fileno(self) -> int:
        """There is none."""
        return -1

    def read_burst(self) -> Burst | None:
        """As many injected frames as fit a slot, four bytes apart as behind a prefix."""
        self.starved = False
        if not self._incoming:
            if self.hung_up:
                raise LinkClosed("EOF")
            return None
        cursor = self._cursor
        frames: list[tuple[int, int]] = []
        while self._incoming:
            frame = self._incoming[0]
            off = cursor.end + 4
            if off + len(frame) > len(cursor.view):
                if frames:
                    break
                cursor.begin = cursor.end
                if not cursor.fresh():
                    self.starved = True
                    return None
                continue
            cursor.view[off : off + len(frame)] = frame
            frames.append((off, len(frame)))
            cursor.begin = cursor.end = off + len(frame)
            self._incoming.popleft()
        return cursor.slot, frames

    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Frames for the guest. LinkClosed after hang_up()."""
        if self.hung_up:
            raise LinkClosed("the guest hung up")
        self._backlog += map(bytes, buffers)
        self.flush()
        return True

    def flush(self) -> None:
        """Hand over as much as the capacity allows."""
        waiting = sum(map(len, self._outgoing))
        while self._backlog and waiting < self._capacity:
            frame = self._backlog.pop(0)
            waiting += len(frame)
            self._outgoing += self._to_guest.apply(frame)

    def close(self) -> None:
        """Give back the slot."""
        self._cursor.release()
        self.closed = True
