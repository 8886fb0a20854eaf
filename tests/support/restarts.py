"""Restarts a daemon by its API, and looks at what the processes hold."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Protocol

from tests.support.daemon import children_of
from tests.support.netns import wait_for


class HasPost(Protocol):
    """A daemon whose API can be asked."""

    def post(self, path: str, body: object) -> tuple[int, bytes]: ...


def restart(daemon: HasPost) -> int:
    """Restart, and return the new process id."""
    status, content = daemon.post("/restart", {})
    assert status == 200, content
    return int(json.loads(content)["pid"])


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(each for child in children_of(pid) for each in family(child))]


def descriptors(pid: int) -> dict[str, int]:
    """How many descriptors of each kind a process has."""
    kinds: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        kinds[re.sub("[0-9].*", "", target)] += 1
    return dict(kinds)


def await_end(pid: int) -> None:
    """Wait until a process is gone, or is the minder of another one."""

    def gone() -> bool:
        try:
            return b"minder.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for(gone, f"the end of {pid}", 20)
