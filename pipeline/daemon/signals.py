"""Collects the signals that the daemon acts on, so that it does so at a safe time.

SIGINT, SIGTERM and SIGQUIT end it. So does SIGHUP, unless it has a configuration file to read again. SIGUSR1
has the log reopened. SIGUSR2 has a new version take the place of this one (restart.py).

The interpreter writes the number of each signal into a pipe. The supervisor's event loop reads the pipe when
it runs. So a signal during the start is not lost, and does not leave a half-made file. A second signal during
the end does no harm.

Blocking the signals is not enough. A thread of a library (numpy has some) may not block them. It would get
the signal, and the process would end.
"""

import os
import signal
from contextlib import suppress
from typing import Final

_MAX_READ: Final = 4096


def handled() -> tuple[signal.Signals, ...]:
    """All signals that the daemon handles. (A function: Windows lacks some, but imports this file.)"""
    ending = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT
    return *ending, signal.SIGUSR1, signal.SIGUSR2


class Signals:
    """Handles these signals for the life of the process. The main thread makes it."""

    def __init__(self, *, reloads: bool = False) -> None:
        """reloads: SIGHUP does not end the program."""
        # A program that nohup started ignores a SIGHUP that would end it. A shell starts `program &` of a
        # script with SIGINT and SIGQUIT ignored, but who sends these by number means them.
        self._numbers = list(handled())
        if not reloads and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
            self._numbers.remove(signal.SIGHUP)
        self.fds = os.pipe()
        """The read end and the write end of the pipe. A forked process must close both."""
        for fd in self.fds:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.fds[1], warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, lambda *_: None)
        # A predecessor has started this process with these signals blocked (heir.py).
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handled())

    def fileno(self) -> int:
        """The descriptor to poll. It is readable when take() has a signal."""
        return self.fds[0]

    def take(self) -> list[signal.Signals]:
        """The signals that came since the last call, in order."""
        with suppress(BlockingIOError):
            return [signal.Signals(number) for number in os.read(self.fds[0], _MAX_READ)]
        return []

    def close(self, *, ignore: bool = True) -> None:
        """Ignore all further signals. The program ends now, and its exit status is decided.

        ignore: if false, signals that are blocked wait for the program that this process becomes.
        """
        if ignore:
            for number in self._numbers:
                signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        for fd in self.fds:
            os.close(fd)
