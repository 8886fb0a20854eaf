"""Whether another process runs, waits or is stopped, and how much processor time it has used. Only Linux."""

import os
from pathlib import Path
from typing import Final, NamedTuple

RUNNABLE: Final = "R"
"""It runs, or waits for a core."""

_STATE: Final = 0
_UTIME: Final = 11
_STIME: Final = 12
"""Fields of /proc/PID/stat after the name."""


class ProcessState(NamedTuple):
    """letter: as in ps: R, S, D, T, Z. seconds: of processor time."""

    letter: str
    seconds: float


def state_of(pid: int) -> ProcessState | None:
    """The state of a process; None if the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        # The name stands in brackets, and may have any characters.
        fields = text.rpartition(")")[2].split()
        ticks = int(fields[_UTIME]) + int(fields[_STIME])
        return ProcessState(fields[_STATE], ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None
