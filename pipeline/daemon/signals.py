"""The signals that end the daemon, held from before it leaves a first trace until it removed the last.

The interpreter writes the signal's number into a pipe, where it waits for an event loop. So an early signal
loses nothing and leaves nothing half done, and a second one at the end does no harm. Blocking the signals
would not do: a library's thread that does not block them (numpy has some) would get one, and end the process.
"""

import os
import signal
from contextlib import suppress
from typing import Final

_MAX_READ: Final = 4096


def ending() -> tuple[signal.Signals, ...]:
    """All of them. (A function: Windows, which knows fewer, only looks at configurations.)"""
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT


class Signals:
    """Takes the signals over for the rest of the process' life; made by its main thread."""

    def __init__(self) -> None:
        # A program that nohup started ignores SIGHUP.
        self._numbers = [number for number in ending() if signal.getsignal(number) != signal.SIG_IGN]
        self.fds = os.pipe()
        """The reader's and the writer's end. A forked process has to close both."""
        for fd in self.fds:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.fds[1], warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        """Readable when take() has a signal."""
        return self.fds[0]

    def take(self) -> list[signal.Signals]:
        """The signals that came since the last call, in order."""
        with suppress(BlockingIOError):
            return [signal.Signals(number) for number in os.read(self.fds[0], _MAX_READ)]
        return []

    def close(self) -> None:
        """Ignore all further signals: the program is at its end, and its exit status is decided."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        for fd in self.fds:
            os.close(fd)
