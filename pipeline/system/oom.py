"""Which process the system ends first when memory is short.

A worker that is ended gets a successor, and the rest goes on. Without the supervisor nothing goes on. The
kernel ends the process with most points. A process has a point for each thousandth of the memory that it
uses, and it may give itself more. Linux alone has this.
"""

from pathlib import Path
from typing import Final

POINTS: Final = 200
"""Points that a worker gives itself. The supervisor may use this much more memory than a worker."""
MAX_POINTS: Final = 1000
_FILE: Final = Path("/proc/self/oom_score_adj")


def go_first() -> None:
    """Let the system end this process before the others of this program. Does nothing if it cannot."""
    try:
        before = int(_FILE.read_text())
        if before > -MAX_POINTS:
            _FILE.write_text(str(min(before + POINTS, MAX_POINTS)))
    except (OSError, ValueError):
        return
