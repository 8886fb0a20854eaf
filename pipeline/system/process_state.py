"""Whether another process runs, waits or is stopped, and how much processor time it has used. Only Linux."""

import os
from pathlib import Path
from typing import Final, NamedTuple

RUNNABLE: Final = "R"
"""It runs, or waits for a core."""

_STATE: Final = 0
_UTIME: Final = 11
_STIME: Final = 12
_STARTED: Final = 19
"""Fields of /proc/PID/stat after the name."""


class ProcessState(NamedTuple):
    """letter: as in ps: R, S, D, T, Z. seconds: of processor time."""

    letter: str
    seconds: float


def started_at(pid: int) -> int:
    """When a process was started, in ticks since the system was; 0 if the system does not tell.

    A later process with the same number has another time.
    """
    try:
        return int(_fields(pid)[_STARTED])
    except (OSError, ValueError, IndexError):
        return 0


def _fields(pid: int) -> list[str]:
    # The name stands in brackets, and may have any characters.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def state_of(pid: int) -> ProcessState | None:
    """The state of a process; None if the system does not tell."""
    try:
        fields = _fields(pid)
        ticks = int(fields[_UTIME]) + int(fields[_STIME])
        return ProcessState(fields[_STATE], ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None
