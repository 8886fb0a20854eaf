"""Which process the system ends first when memory is short.

A worker that is ended gets a successor, and the rest goes on. Without the supervisor nothing goes on. The
kernel ends the process with most points. A process has a point for each thousandth of the memory that it
uses, and it may give itself more. *The memory* is that of the machine, or the limit of the control group that
is full. So in a small container a point is worth little. Linux alone has this.
"""

import os
from pathlib import Path
from typing import Final

POINTS: Final = 200
"""Points that a worker gives itself at least."""
MAX_POINTS: Final = 1000
SUPERVISOR_BYTES: Final = 96 << 20
"""The supervisor may use this much more memory than a worker: a worker gets the points for it."""
_FILE: Final = Path("/proc/self/oom_score_adj")
_GROUPS: Final = Path("/proc/self/cgroup")
_ROOT: Final = Path("/sys/fs/cgroup")
_LIMITS: Final = (("", "memory.max"), ("memory", "memory.limit_in_bytes"))
"""Folder of a hierarchy, and the file with the limit: of version 2 and of version 1. In version 2 the
controller has no name in /proc/self/cgroup."""


def go_first() -> None:
    """Let the system end this process before the others of this program. Does nothing if it cannot."""
    try:
        before = int(_FILE.read_text())
        if before > -MAX_POINTS:
            _FILE.write_text(str(min(before + points(memory()), MAX_POINTS)))
    except (OSError, ValueError):
        return


def points(available: int) -> int:
    """The points of a worker. available: bytes of the memory."""
    return min(max(POINTS, -(-SUPERVISOR_BYTES * MAX_POINTS // available)), MAX_POINTS)


def memory(groups: Path = _GROUPS, root: Path = _ROOT) -> int:
    """Bytes of memory that this process and its relatives may use: of the machine, or of a control group."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        rows = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return found
    for _, controllers, path in rows:
        for folder, file in _LIMITS:
            if folder in controllers.split(","):
                found = min([found, *_limits(root / folder, path, file)])
    return found


def _limits(root: Path, path: str, file: str) -> list[int]:
    """The limits of a group and of those around it. A container may see its own group as the root."""
    group = root / path.lstrip("/")
    found = []
    for place in (group, *group.parents):
        if not place.is_relative_to(root):
            break
        try:
            # Without a limit version 2 says "max", and version 1 a number without meaning.
            found.append(int((place / file).read_text()))
        except (OSError, ValueError):
            continue
    return [limit for limit in found if limit > 0]
