"""The signals that end the daemon, kept from before its first trace in the system until the last is removed.

The interpreter writes the number into a pipe, and there it waits until an event loop is there to read it: so
nothing is lost or half done however early a signal comes, and a second one at the end harms nothing either.
To block them for that time would not do: a library's thread that does not (numpy's has some) would get the
signal, and the process would end of it.
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
        # Who was started by nohup lives on.
        self._numbers = [number for number in ending() if signal.getsignal(number) != signal.SIG_IGN]
        self.fds = os.pipe()
        """The reader's and the writer's end; what is forked has to close both."""
        for fd in self.fds:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.fds[1], warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        """Readable when take() has something."""
        return self.fds[0]

    def take(self) -> list[signal.Signals]:
        """Those that came since the last call, in order."""
        with suppress(BlockingIOError):
            return [signal.Signals(number) for number in os.read(self.fds[0], _MAX_READ)]
        return []

    def close(self) -> None:
        """The program is at its end: what comes now is ignored, and its exit status stands."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        for fd in self.fds:
            os.close(fd)
