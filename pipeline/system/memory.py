"""How much memory this process may use: that of the machine, or less if a control group (cgroup) says so."""

import os
from pathlib import Path
from typing import Final

_GROUPS: Final = Path("/sys/fs/cgroup")
_OWN_GROUP: Final = Path("/proc/self/cgroup")


def available_bytes() -> int:
    """The least of the machine's memory and the limits of all control groups of this process."""
    return min([_machine_bytes(), *_group_limits(_OWN_GROUP, _GROUPS)])


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_limits(own: Path, groups: Path) -> list[int]:
    """The limits in the group's file memory.max and in those of the groups around it (version 2)."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        # Not Linux, or no /proc.
        return []
    path = next((line[len("0::/") :] for line in lines if line.startswith("0::/")), "")
    group = groups / path
    return [
        limit
        for directory in (group, *group.parents)
        if directory.is_relative_to(groups) and (limit := _limit(directory / "memory.max")) > 0
    ]


def _limit(path: Path) -> int:
    """The number in the file; 0 for "max", or if there is no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
