"""The minder: what the process that a user has started becomes when a successor goes on.

Shells, containers and managers of services wait for the process that they have started. So it stays after a
restart. It passes signals on to the daemon, and ends as the daemon ends, with the same status. It is a fresh
interpreter with this file alone, so it needs little memory. Under systemd there is no minder: systemd learns
the number of the new process (MAINPID).

The daemon may be restarted again. Its predecessor writes the number of each successor into a socket, one a
line. Each successor becomes the minder's child when its predecessor ends (PR_SET_CHILD_SUBREAPER). If the
minder is killed, the daemon sees the end of the socket, and ends too.
"""

import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

PASSED_ON: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows lacks some, and has no restart
)
_PIECE: Final = 4096
_SIGNALLED: Final = 128
"""A shell's status for a process that a signal ended is this plus the signal's number."""


class Minder:
    """The loop. main: the daemon's process."""

    def __init__(self, sock: socket.socket, main: int) -> None:
        self._sock = sock
        self._main = main
        self._begun = b""
        self._ended: dict[int, int] = {}
        """Status of each child that has ended and was not the daemon then."""

    def run(self) -> int:
        """Wait for the end of the daemon. Returns its status as of os.waitpid()."""
        wake, wake_write = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Not select(), which refuses descriptors from 1024 on: the daemon may have had many.
        sources = select.poll()
        sources.register(wake, select.POLLIN)
        sources.register(self._sock, select.POLLIN)
        while True:
            # The look at the children is for an end before the first handler.
            if (status := self._look()) is not None:
                return status
            ready = [fd for fd, _ in sources.poll(1000)]
            if self._sock.fileno() in ready and not self._read():
                sources.unregister(self._sock)
            if wake in ready:
                self._pass_on(os.read(wake, _PIECE))

    def _read(self) -> bool:
        """Read which process is the daemon now. False at the end."""
        try:
            piece = self._sock.recv(_PIECE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        *lines, self._begun = (self._begun + piece).split(b"\n")
        for line in lines:
            self._main = int(line)
        return bool(piece)

    def _pass_on(self, numbers: bytes) -> None:
        for number in numbers:
            if number != signal.SIGCHLD:
                with suppress(ProcessLookupError):
                    os.kill(self._main, number)

    def _look(self) -> int | None:
        """The daemon's status, if it has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if not pid:
                break
            self._ended[pid] = status
        if self._main not in self._ended:
            # Workers whose supervisor has died.
            self._ended.clear()
            return None
        # It may have ended because another one goes on.
        with suppress(OSError):
            self._read()
        return self._ended.pop(self._main, None)


def main(words: list[str]) -> None:
    """words: the descriptor of the socket, and the number of the daemon's process."""
    fd, pid = map(int, words)
    status = Minder(socket.socket(fileno=fd), pid).run()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
        if os.getpid() != 1:
            os.kill(os.getpid(), number)
        sys.exit(_SIGNALLED + number)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1:])
