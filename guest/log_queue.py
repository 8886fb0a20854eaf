"""Log lines on standard error without waiting: whoever logs queues a line, and a thread writes it.

Standard error may be a pipe that nobody reads, or a terminal that is stopped. A program that writes there
itself stops with it. Here a bounded number of lines waits; what does not fit is lost, counted and reported.
"""

import logging
import os
import queue
import select
import signal
import threading
import time
from typing import Final

STDERR: Final = 2
MAX_LINES: Final = 1000
MAX_LINE_BYTES: Final = 4096
FLUSH_SECONDS: Final = 1.0
"""How long the end of the program may wait for the last lines."""
_POLL_SECONDS: Final = 0.01


class LogQueue(logging.Handler):
    """A handler for a file descriptor. Its thread takes no signals and does not keep the program alive."""

    def __init__(self, fd: int = STDERR, max_lines: int = MAX_LINES) -> None:
        super().__init__()
        self.lost = 0
        """Lines so far for which there was no room."""
        self._fd = fd
        self._queue: queue.Queue[bytes] = queue.Queue(max_lines)
        # Signals are for the main thread, whose system call they have to interrupt.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            threading.Thread(target=self._run, name="log", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as lost."""
        try:
            self._queue.put_nowait(self._line(record))
        except queue.Full:
            self.lost += 1

    def flush(self) -> None:
        """Wait until everything is written, at most FLUSH_SECONDS."""
        end = time.monotonic() + FLUSH_SECONDS
        while self._queue.unfinished_tasks and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace")[:MAX_LINE_BYTES] + b"\n"

    def _run(self) -> None:
        said = 0
        while True:
            line = self._queue.get()
            lost = self.lost
            if lost > said:
                text, args = "%d log lines were lost: nobody read them", (lost - said,)
                self._write(self._line(logging.LogRecord("log", logging.WARNING, "", 0, text, args, None)))
                said = lost
            self._write(line)
            self._queue.task_done()

    def _write(self, line: bytes) -> None:
        """Write a line. One that standard error refuses, for instance because it is closed, has no reader."""
        while line:
            try:
                line = line[os.write(self._fd, line) :]
            except BlockingIOError:  # somebody who shares it made it non-blocking
                select.select([], [self._fd], [], 1.0)
            except OSError:
                return
