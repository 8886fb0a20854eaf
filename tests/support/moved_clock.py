"""Runs the daemon with a wall clock that a test moves, since no test may set the clock of the machine.

    python -m tests.support.moved_clock FILE start ...

FILE has one float: how many seconds the wall clock is ahead. What this program uses of the wall clock follows
it: time.time(), time.time_ns(), datetime.now(), and the timed wait of semaphores, as in POSIX.
"""

import datetime
import importlib
import mmap
import struct
import sys
import time
from pathlib import Path
from typing import Any

import posix_ipc

FLOAT = struct.Struct("=d")
LOOK_S = 0.02


def set_ahead(path: Path, seconds: float) -> None:
    """Let the clock of daemons with this file be ahead by so many seconds. A negative number: behind."""
    if not path.exists():
        path.write_bytes(FLOAT.pack(0.0))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), FLOAT.size) as shared:
        FLOAT.pack_into(shared, 0, seconds)


def move(shared: mmap.mmap) -> None:
    """Replace the wall clock of this process and of those that it forks."""
    real = time.time

    def ahead() -> float:
        return float(FLOAT.unpack_from(shared, 0)[0])

    def now() -> float:
        return real() + ahead()

    class Moved(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return super().now(tz) + datetime.timedelta(seconds=ahead())

    plain: Any = posix_ipc.Semaphore

    class Semaphore(plain):  # type: ignore[misc]
        def acquire(self, timeout: float | None = None) -> None:
            """Wait until the wall clock shows the time that it had at the start plus timeout."""
            if not timeout:
                super().acquire(timeout)
                return
            until = now() + timeout
            while True:
                try:
                    super().acquire(max(min(LOOK_S, until - now()), 0))
                    return
                except posix_ipc.BusyError:
                    if now() >= until:
                        raise

    time.time = now
    time.time_ns = lambda: int(now() * 1e9)
    posix_ipc.Semaphore = Semaphore
    # Libraries must not see the other class: some are compiled for the real one.
    importlib.import_module("pipeline.logs").datetime = Moved  # type: ignore[attr-defined]


def main() -> int:
    """See the module's docstring."""
    path, *words = sys.argv[1:]
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), FLOAT.size, access=mmap.ACCESS_READ)
    move(shared)
    code: int = importlib.import_module("pipeline.cli").main(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
