"""The process of a successor, as the old supervisor sees it: starts it, talks with it, and ends it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from pipeline.daemon import signals
from pipeline.daemon.handover_line import Line, LineError
from pipeline.daemon.predecessor import VARIABLE
from pipeline.ipc.channel import HasFileno, close_all
from pipeline.ipc.handover_messages import HandoverMessage, Refused
from pipeline.ipc.socket_pair import socket_pair

NAME: Final = "the new version"
END_TIMEOUT: Final = 1.0
_M = TypeVar("_M")


class HeirError(Exception):
    """The successor does not start. The text says why."""


class Heir:
    """The process. Until release() it is this object's to end."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the command line of this process again. environment: further variables. Raises OSError."""
        ours, theirs = socket_pair()
        with theirs:
            variables = {**os.environ, **environment, VARIABLE: str(theirs.fileno())}
            # A process starts with the signal mask of its parent. So a signal to the whole process group
            # waits until the successor has handlers for it (signals.Signals).
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.handled())
            try:
                self._process = subprocess.Popen(
                    command(), pass_fds=[theirs.fileno()], env=variables, close_fds=True
                )
            except BaseException:
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._line = Line(ours, NAME)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: HandoverMessage, fds: Sequence[int | HasFileno] = ()) -> None:
        """Send a message. The descriptors stay the caller's. Raises OSError."""
        self._line.send(message, fds)

    async def expect(self, kind: type[_M], seconds: float) -> _M:
        """The next message, which must be of this kind. Raises HeirError."""
        try:
            message, fds = await self._line.expect(seconds)
        except LineError as error:
            raise HeirError(self._last_words() or str(error)) from None
        close_all(fds)
        if isinstance(message, Refused):
            raise HeirError(message.reason)
        if not isinstance(message, kind):
            raise HeirError(f"{NAME} has sent {message.NAME} too early")
        return message

    def flush(self, seconds: float) -> None:
        """Send what waits. Raises HeirError if the process is gone."""
        self._line.flush_all(seconds)
        if self._line.ended:
            raise HeirError(self._last_words() or f"{NAME} has ended")

    def _last_words(self) -> str:
        """How the process has ended; "" if it runs."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT)
        status = self._process.returncode
        if status is None:
            return ""
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return f"{NAME} has ended with {how} (its standard error says why)"

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal. Does nothing if the process is gone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the process. May be called twice."""
        self._line.close()
        self._process.kill()
        self._process.wait()

    def release(self) -> None:
        """The process goes on without this one."""
        self._line.close()
        # Without a status, Popen would warn that the process still runs.
        self._process.returncode = 0


def command() -> list[str]:
    """The command line of this process: the interpreter may have been replaced at its path."""
    return [sys.executable, *sys.orig_argv[1:]]
