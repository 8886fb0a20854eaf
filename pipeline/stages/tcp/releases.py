"""Frees slots of egress after the guest has acknowledged their bytes.

A retransmission of these bytes may still be in the ring to ingress. So tcp frees a slot only after ingress
has read the last TCP_OUT record that names it. The consumer index of the ring shows that, so no message is
needed.
"""

from collections import deque

from pipeline.ipc.ring import Producer
from pipeline.stages.worker import Worker


class Releases:
    """Slots that wait for ingress. They are freed in the order in which they were added."""

    def __init__(self, worker: Worker, ingress: Producer) -> None:
        """ingress: the ring to ingress, with the TCP_OUT records."""
        self._worker = worker
        self._ring = ingress
        self._waiting: deque[tuple[int, int, int]] = deque()
        """(index in the ring, slot, tag)."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, slot: int, tag: int) -> None:
        """Free the slot, with this tag, after ingress has read all records pushed so far."""
        self._waiting.append((self._ring.push_idx(), slot, tag))

    def slots_held(self) -> list[int]:
        """The slots that wait."""
        return [slot for _, slot, _ in self._waiting]

    def free_completed(self) -> None:
        """Free the slots for which ingress has read all records."""
        waiting = self._waiting
        while waiting and self._ring.completed(waiting[0][0]):
            _, slot, tag = waiting.popleft()
            self._worker.free(slot, tag)
