"""Output that never blocks its caller: callers queue bytes, and a thread of this process writes them.

A log or a capture may go to a pipe without a reader, to a stopped terminal, or to a disk that does not
answer. A worker that wrote there itself would block. An Outlet keeps a bounded number of bytes for the
thread. An item that does not fit is lost and counted. No caller waits for room. ``failing`` says which
descriptors take nothing now, such as those of files on a full disk.

The thread exists while there is something to write, and for LINGER seconds longer. It handles no signals. It
does not survive fork(): register ``before_fork`` and the two methods after it with os.register_at_fork().
"""

import errno
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LINGER: Final = 1.0
"""Seconds for which an idle thread waits for more items before it ends."""
ROOM_WAIT: Final = 1.0
"""Seconds of one wait until a descriptor that is non-blocking and full has room, or a full disk."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC})


class Outlet:
    """A bounded queue, and a thread that writes what is in it. Any thread may call any method.

    An *item* is bytes that belong together, such as a line. It is written whole, or lost whole and counted.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        on_lost: Callable[[int], None] | None = None,
        notice: Callable[[int], bytes] | None = None,
        stop_at_error: bool = False,
    ) -> None:
        """on_lost is called with the number of lost units, while the lock is held.

        notice: makes an item that reports this number of lost units.
        stop_at_error: the first write error ends the outlet, except that a full disk is waited for: then the
        thread goes on in the middle of an item. Otherwise an error costs only that item.
        """
        self.on_lost = on_lost
        self.lost = 0
        """Units that were lost so far."""
        self.error: OSError | None = None
        """The error that ended an outlet with stop_at_error."""
        self.failing: dict[int, OSError] = {}
        """The error of each descriptor for which the last attempt to write failed."""
        self._max_bytes = max_bytes
        self._notice = notice
        self._stop_at_error = stop_at_error
        self._condition = threading.Condition()
        self._queue: deque[tuple[int, bytes, int, int]] = deque()
        """Descriptor, bytes, units that they stand for, lost units that they report."""
        self._bytes = 0
        self._unreported: dict[int, int] = {}
        """By descriptor: lost units that no notice has reported yet."""
        self._torn: set[int] = set()
        """Descriptors whose last item was written in part."""
        self._writing = False
        self._stopping = False
        self._held = False
        self._thread: threading.Thread | None = None

    def put(self, fd: int, item: bytes, units: int = 1) -> bool:
        """Queue an item for a descriptor. Returns False if it is lost, which adds units to ``lost``."""
        with self._condition:
            # An empty queue takes an item of any length.
            if self.error is not None or (self._bytes and self._bytes + len(item) > self._max_bytes):
                self._lose(fd, units)
                return False
            self._report_losses(fd)
            self._append(fd, item, units, 0)
            self._condition.notify_all()
            self._start()
        return True

    def hold(self) -> None:
        """Start no thread until go_on() or flush(). Items wait in the queue."""
        with self._condition:
            self._held = True

    def go_on(self) -> None:
        """Write what waits, and what comes from now on."""
        with self._condition:
            self._held = False
            if self._queue:
                self._start()

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written, at most timeout seconds. Returns whether it is."""
        with self._condition:
            self._held = False
            if self._queue:
                self._start()
            return self._condition.wait_for(lambda: not self._queue and not self._writing, timeout)

    def stop_thread(self, timeout: float) -> bool:
        """Flush, and end the thread until the next put(). Returns whether it has ended."""
        done = self.flush(timeout)
        with self._condition:
            thread, self._stopping = self._thread, done
            self._condition.notify_all()
        if thread is not None and done:
            thread.join(timeout)
        with self._condition:
            self._stopping = False
            return self._thread is None

    # --- fork ---------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Take the lock, so that the child does not get a queue in the middle of a change."""
        self._condition.acquire()

    def after_fork_in_parent(self) -> None:
        """Release the lock."""
        self._condition.release()

    def after_fork_in_child(self) -> None:
        """Begin with an empty queue. The parent writes the items that were in it."""
        self._condition = threading.Condition()
        self._queue.clear()
        self._torn.clear()
        self.failing = {}
        self._unreported = {}
        self._bytes = self.lost = 0
        self._writing = self._stopping = self._held = False
        self._thread = None
        self.on_lost = None

    # --- under the lock -------------------------------------------------------------------------

    def _append(self, fd: int, item: bytes, units: int, reported: int) -> None:
        self._queue.append((fd, item, units, reported))
        self._bytes += len(item)

    def _lose(self, fd: int, units: int) -> None:
        self.lost += units
        self._unreported[fd] = self._unreported.get(fd, 0) + units
        if self.on_lost is not None:
            self.on_lost(units)

    def _report_losses(self, fd: int) -> None:
        if self._notice is not None and (reported := self._unreported.pop(fd, 0)):
            self._append(fd, self._notice(reported), 0, reported)

    def _start(self) -> None:
        if self._thread is not None or self._held:
            return
        thread = threading.Thread(target=self._run, name="outlet", daemon=True)
        self._thread = thread
        try:
            with signals_blocked():
                thread.start()
        except RuntimeError:
            # The system cannot start a thread now. The next put() tries again.
            self._thread = None

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._condition:
            while True:
                if not self._condition.wait_for(lambda: self._queue or self._stopping, LINGER):
                    break
                if not self._queue:
                    break
                self._write_one()
            self._thread = None

    def _write_one(self) -> None:
        """Write the oldest item. The lock is held before and after, not while writing."""
        fd, item, units, reported = self._queue.popleft()
        self._writing = True
        self._condition.release()
        try:
            error = self._write(fd, item)
        finally:
            self._condition.acquire()
            self._writing = False
        # Only now: an item takes room in the queue while it is being written.
        self._bytes -= len(item)
        if error is not None:
            self.failing[fd] = error
            self._lose(fd, units)
            self._unreported[fd] += reported
            if self._stop_at_error:
                self.error = error
                self._lose(fd, sum(row[2] for row in self._queue))
                self._queue.clear()
                self._bytes = 0
        else:
            self.failing.pop(fd, None)
            if not self._queue:
                self._report_losses(fd)
        if not self._queue:
            self._condition.notify_all()

    def _write(self, fd: int, item: bytes) -> OSError | None:
        """Write all of an item. If the item before it was written in part, write a newline first."""
        data = memoryview(b"\n" + item if fd in self._torn else item)
        begun = False
        while data:
            try:
                written = os.write(fd, data)
            except BlockingIOError:
                # A program that shares the descriptor has made it non-blocking. Wait until it has room.
                poller = select.poll()
                poller.register(fd, select.POLLOUT)
                poller.poll(ROOM_WAIT * 1000)
                continue
            except OSError as error:
                if self._stop_at_error and error.errno in _FULL:
                    # A part of the item may be written already, and the rest must follow it.
                    self.failing[fd] = error
                    time.sleep(ROOM_WAIT)
                    continue
                if begun:
                    self._torn.add(fd)
                return error
            begun = True
            data = data[written:]
        self._torn.discard(fd)
        return None


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block all signals while a thread is started: it inherits the mask.

    Signals must reach the main thread, so that they end its sleep.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows, where the program only checks configurations
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
