"""Writes log lines to standard error without blocking the program. A thread writes lines from a queue.

Standard error may be a full pipe or a stopped terminal. A program that writes there directly would block. The
queue is bounded. Lines that do not fit are lost, counted and reported.
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
"""Seconds that the program may wait at its end for its last lines."""
_POLL_SECONDS: Final = 0.01


class Formatter(logging.Formatter):
    """gvforwarder's form: ``time="2026-11-29T12:00:00Z" level=info msg="..."``."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__('time="%(asctime)s" level=%(level)s msg="%(text)s"', "%Y-%m-%dT%H:%M:%SZ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the library's name
        """The line. Quotes and ends of lines in the text are escaped, so that it stays one line."""
        text = record.message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        record.level, record.text = record.levelname.lower(), text
        return super().formatMessage(record)


class LogQueue(logging.Handler):
    """A logging handler for a descriptor. Its thread gets no signals, and does not keep the program alive."""

    def __init__(self, fd: int = STDERR, max_lines: int = MAX_LINES) -> None:
        super().__init__()
        self.lost = 0
        """The number of lines that were lost so far."""
        self._fd = fd
        self._queue: queue.Queue[bytes] = queue.Queue(max_lines)
        # The main thread must get the signals, because they must interrupt its system calls.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            threading.Thread(target=self._run, name="log", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def unwritten(self) -> int:
        """The number of lines that are not written yet."""
        return self._queue.unfinished_tasks

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line. If the queue is full, count the line as lost."""
        try:
            self._queue.put_nowait(self._line(record))
        except queue.Full:
            self.lost += 1

    def flush(self) -> None:
        """Wait at most FLUSH_SECONDS until all lines are written."""
        end = time.monotonic() + FLUSH_SECONDS
        while self.unwritten and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace")[:MAX_LINE_BYTES] + b"\n"

    def _run(self) -> None:
        reported = 0
        while True:
            line = self._queue.get()
            lost = self.lost
            if lost > reported:
                text, args = "%d log lines were lost: nobody read them", (lost - reported,)
                self._write(self._line(logging.LogRecord("log", logging.WARNING, "", 0, text, args, None)))
                reported = lost
            self._write(line)
            self._queue.task_done()

    def _write(self, line: bytes) -> None:
        """Write a line. It is dropped if standard error refuses it, for instance because it is closed."""
        while line:
            try:
                line = line[os.write(self._fd, line) :]
            except BlockingIOError:  # another process that shares it made it non-blocking
                # Not select(), which refuses descriptors from 1024 on.
                room = select.poll()
                room.register(self._fd, select.POLLOUT)
                room.poll(1000)
            except OSError:
                return
