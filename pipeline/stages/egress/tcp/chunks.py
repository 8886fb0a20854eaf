"""How much of a host socket one read takes."""

from typing import Final

MAX_READ: Final = 65536


def read_chunk(mss: int) -> int:
    """The most bytes of one read: as many whole segments of mss bytes as fit into 64 KiB."""
    if not 0 < mss < MAX_READ:
        return MAX_READ
    return MAX_READ // mss * mss
