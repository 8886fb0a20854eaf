"""Reads memory and CPU time of a process and its descendants from /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process ids of a process and of its descendants now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # Fields after the name (which may contain spaces): state, parent, ...
                parent = int((_PROC / entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def memory_bytes(pid: int) -> int:
    """Proportional set size of the process tree: pages that its processes share count once."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in (_PROC / str(each) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of the process tree so far."""
    total = 0.0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += own_cpu_seconds(each)
    return total


def own_cpu_seconds(pid: int) -> float:
    """CPU time of the present threads of one process. OSError if it is gone.

    Uses the kernel's nanoseconds if it counts them, because ticks of 10 ms are too coarse for an idle
    process.
    """
    process = _PROC / str(pid)
    threads = list((process / "task").iterdir())
    try:
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except FileNotFoundError:
        # The name in parentheses may contain spaces. The fields after it do not.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
