"""Reports guests that send bad frames to ingress (MISBEHAVED), which then reads these guests more slowly."""

from typing import Final

from pipeline.ipc.ring import Producer
from pipeline.records.frames import Misbehaved


class BadFrames:
    """Counts the dropped frames of each link, and reports them to ingress."""

    REPORT: Final = 32
    """Number of frames of one link after which a record is sent."""
    MOST: Final = 1 << 30
    """The most frames that one record may report."""

    def __init__(self, ingress: Producer) -> None:
        """ingress: the ring to ingress."""
        self._ring = ingress
        self._counts: dict[int, int] = {}
        """Frames that ingress has not heard of, by link."""

    def __len__(self) -> int:
        """Links of which something is remembered."""
        return len(self._counts)

    def note(self, link: int, frames: int = 1) -> None:
        """Count dropped frames of a link. After REPORT frames, send a record to ingress.

        While the ring is full, no record is sent and the count grows. The ring may be full because the guest
        does not read, while it goes on sending.
        """
        count = min(self._counts.get(link, 0) + frames, self.MOST)
        if count >= self.REPORT and self._ring.room() > 0:
            self._ring.push(Misbehaved.pack(link, count))
            count = 0
        self._counts[link] = count

    def forget(self, link: int) -> None:
        """The link is gone; another guest will get its number."""
        self._counts.pop(link, None)
