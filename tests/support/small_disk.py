"""A small file system of a daemon: a tmpfs in a mount namespace that only the daemon has.

    disk = SmallDisk(tmp_path / "disk", "1m")
    daemon.command = disk.command(daemon.command)

A test looks into it through /proc/PID/root, and fills it.
"""

import errno
import os
from io import FileIO
from pathlib import Path

import pytest

from tests.support.netns import wait_for

MOUNT = 'mount -t tmpfs -o size="$0" none "$1" && shift && exec "$@"'
PIECE = 4096


class SmallDisk:
    """The place where it is mounted, which must be a directory. Needs root."""

    def __init__(self, place: Path, size: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("root alone can mount")
        self.place = place
        self.size = size
        self._pid = 0

    def command(self, argv: list[str], *, full: bool = False) -> list[str]:
        """The command line that runs argv with the disk, with the same process id. full: of a filled one."""
        script = MOUNT
        if full:
            script = MOUNT.replace("shift", '{ head -c 1G /dev/zero > "$1/filler" 2>/dev/null; shift; }')
        return ["unshare", "--mount", "sh", "-c", script, self.size, str(self.place), *argv]

    def belongs_to(self, pid: int) -> None:
        """The process that has the disk."""
        self._pid = pid
        # A system that gives processes no own mounts would have the test fill a real disk.
        wait_for(lambda: self.inside().stat().st_dev != self.place.stat().st_dev, "the disk is there")

    def inside(self, name: str = "") -> Path:
        """The path of a file of the disk, for the test."""
        return Path(f"/proc/{self._pid}/root{self.place}") / name

    def fill(self) -> None:
        """Leave no room."""
        with self.inside("filler").open("wb", buffering=0) as file:
            while self._has_room(file):
                pass

    def _has_room(self, file: FileIO) -> bool:
        try:
            return file.write(bytes(PIECE)) > 0
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False

    def empty(self) -> None:
        """Give back the room."""
        self.inside("filler").unlink()
