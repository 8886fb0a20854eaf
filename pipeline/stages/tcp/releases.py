"""Slots of egress that the guest has acknowledged, on their way home.

Such a slot may go home only when ingress has also read the last TCP_OUT that names it. That is certain once
ingress has released every record pushed before: the ring's consumer index says so, and no message is
needed.
"""

from collections import deque

from pipeline.ipc.ring import Producer
from pipeline.stages.worker import Worker


class Releases:
    """Waits for ingress, then frees. The oldest slot is first in both."""

    def __init__(self, worker: Worker, ingress: Producer) -> None:
        """ingress: the ring that the records are in."""
        self._worker = worker
        self._ring = ingress
        self._waiting: deque[tuple[int, int, int]] = deque()
        """(index in the ring, slot, tag)."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, slot: int, tag: int) -> None:
        """Free the slot with this tag when ingress has read what was pushed so far."""
        self._waiting.append((self._ring.push_idx(), slot, tag))

    def free_completed(self) -> None:
        """Free the slots that ingress has read."""
        waiting = self._waiting
        while waiting and self._ring.completed(waiting[0][0]):
            _, slot, tag = waiting.popleft()
            self._worker.free(slot, tag)
