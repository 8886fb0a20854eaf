"""Reports of dropped frames to ingress (MISBEHAVED), which then reads their guest more slowly."""

from typing import Final

from pipeline.ipc.ring import Producer
from pipeline.records.frames import Misbehaved


class BadFrames:
    """Counts dropped frames by link, and reports them to ingress."""

    REPORT: Final = 32
    """Frames of one link that are worth a record."""
    MOST: Final = 1 << 30
    """Frames that one record may report."""

    def __init__(self, ingress: Producer) -> None:
        """ingress: the ring to it."""
        self._ring = ingress
        self._counts: dict[int, int] = {}

    def note(self, link: int, frames: int = 1) -> None:
        """Frames of a link were dropped. When there are enough of them, report them to ingress.

        While the ring is full they add up: a guest that does not read stops that ring, not its own frames.
        """
        count = min(self._counts.get(link, 0) + frames, self.MOST)
        if count >= self.REPORT and self._ring.room() > 0:
            self._ring.push(Misbehaved.pack(link, count))
            count = 0
        self._counts[link] = count

    def forget(self, link: int) -> None:
        """The link is gone."""
        self._counts.pop(link, None)
