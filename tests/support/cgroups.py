"""Control groups for tests, of version 1 or 2, whichever this machine offers.

    with Cgroup.make("pids") as group: group.add(pid); group.write("pids.max", "20")

A group is made below the root of its hierarchy. Its end kills what is left in it, and removes it.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.support.netns import wait_for

_MOUNTS: Final = Path("/proc/self/mounts")


def _mounted(kind: str, option: str = "") -> list[Path]:
    """Where hierarchies of this kind are mounted. option: one that the mount must have."""
    rows = [line.split() for line in _MOUNTS.read_text().splitlines()]
    return [Path(row[1]) for row in rows if row[2] == kind and (not option or option in row[3].split(","))]


class Cgroup:
    """One group. version: 1 or 2."""

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        self.version = version

    @classmethod
    @contextmanager
    def make(cls, controller: str, version: int = 0) -> Iterator["Cgroup"]:
        """A new group with this controller. The test is skipped if the machine gives none.

        version: the one that it must have, 0 for any. The controller ``freezer`` is a part of version 2.
        """
        name = f"gvtap-test-{os.getpid()}-{time.monotonic_ns()}"
        group = None
        for kind, found in (("cgroup2", 2), ("cgroup", 1)):
            if version in (0, found):
                for root in _mounted(kind, controller if found == 1 else ""):
                    if found == 1 or _offers(root, controller):
                        group = cls(root / name, found)
                        break
            if group is not None:
                break
        else:
            pytest.skip(f"there are no control groups of version {version or '1 or 2'} with {controller}")
        try:
            group.path.mkdir()
        except OSError as error:
            pytest.skip(f"no control group can be made: {error.strerror}")
        try:
            yield group
        finally:
            group.close()

    def add(self, pid: int) -> None:
        """Move a process into the group."""
        self.write("cgroup.procs", str(pid))

    def add_tree(self, pids: list[int]) -> None:
        """Move these processes."""
        for pid in pids:
            self.add(pid)

    def command(self, argv: list[str]) -> list[str]:
        """The command line that runs argv in the group, with the same process id."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *argv]

    def pids(self) -> list[int]:
        """The processes in the group."""
        return list(map(int, (self.path / "cgroup.procs").read_text().split()))

    def write(self, file: str, text: str) -> None:
        """Write into a file of the group."""
        (self.path / file).write_text(text)

    def number(self, file: str) -> int:
        """The number in a file of the group."""
        return int((self.path / file).read_text())

    # --- what has different names in the two versions ------------------------------------------

    def freeze(self) -> None:
        """Stop all processes in the group, and wait until they stand."""
        if self.version == 1:
            self.write("freezer.state", "FROZEN")
            wait_for(lambda: (self.path / "freezer.state").read_text() == "FROZEN\n", "all are frozen")
        else:
            self.write("cgroup.freeze", "1")
            wait_for(lambda: "frozen 1" in (self.path / "cgroup.events").read_text(), "all are frozen")

    def thaw(self) -> None:
        """Let them go on."""
        if self.version == 1:
            self.write("freezer.state", "THAWED")
        else:
            self.write("cgroup.freeze", "0")

    def memory_used(self) -> int:
        """Bytes of memory that the group uses."""
        return self.number("memory.usage_in_bytes" if self.version == 1 else "memory.current")

    def limit_memory(self, count: int) -> None:
        """Let the group use at most this many bytes."""
        self.write("memory.limit_in_bytes" if self.version == 1 else "memory.max", str(count))

    def close(self) -> None:
        """Kill what is left in the group, and remove it."""
        if (self.path / "freezer.state").exists() or (self.path / "cgroup.freeze").exists():
            self.thaw()
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(self._removed, f"{self.path} can be removed")

    def _removed(self) -> bool:
        try:
            self.path.rmdir()
        except OSError:
            return False
        return True


def _offers(root: Path, controller: str) -> bool:
    """Whether groups below the root of version 2 have this controller."""
    if controller == "freezer":
        return True
    if controller not in (root / "cgroup.controllers").read_text().split():
        return False
    if controller not in (root / "cgroup.subtree_control").read_text().split():
        try:
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            return False
    return True
