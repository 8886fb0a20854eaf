"""What demux and tcp tell ingress of dropped frames (MISBEHAVED): it reads a guest more slowly for them."""

from typing import Final

from pipeline.shm import descriptor as d


class BadFrames:
    """Counts dropped frames by link, and when to tell ingress of them."""

    REPORT: Final = 32
    """Frames of one link worth a record."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def note(self, link: int, frames: int = 1) -> bytes | None:
        """Frames of a link were dropped; a record for ingress when there are enough of them."""
        count = self._counts.get(link, 0) + frames
        if count < self.REPORT:
            self._counts[link] = count
            return None
        self._counts[link] = 0
        return d.record(d.MISBEHAVED, link=link, aux=count)

    def forget(self, link: int) -> None:
        """The link is gone."""
        self._counts.pop(link, None)
