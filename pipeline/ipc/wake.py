"""Sleep and wake between worker processes, without a system call while everybody is busy.

Each worker has one bell: a cache line in the segment with three words, and a waiter (eventfd
or semaphore) that the kernel knows. The protocol between one sleeper and any number of
ringers, which is Dekker's with the flag on one side and the rings on the other::

    sleeper                              ringer
    sleeping = 1                         publish (prod_idx = n)
    full fence                           full fence
    any ring pending? -> awake, work     sleeping == 1? -> sleeping = 0, post
    waiter.wait(min(deadline, MAX_SLEEP))
    sleeping = 0

Without both fences each side may read the other's word before its own store is visible, and
the sleeper misses an entry that nobody rings for. The ringer clears the flag so that only one
of a burst pays for the system call. A ringer that is held up between its test and its clear
may wipe out a later announcement; it posts afterwards in any case, so the sleeper comes back,
at the latest after MAX_SLEEP if that ringer died right there. Posts that find nobody asleep
cost one empty breath and are never counted up: a waiter forgets all of them at once.

Slots that come home are no work by themselves: a sleeper that has enough of them says so, and
is not woken for more (``ring_for_slots``). It takes them when it wakes for something else.

A *prewake* is the hint that something will be published soon, by whomever: it wakes a sleeper early, and
asks one that looks for work to go on looking. Nothing depends on it.

===============  ========  ==========================================================
sleeper is       sleeping  a ringer
===============  ========  ==========================================================
awake            0         does nothing
announced        1         clears and posts; the sleeper then does not block
asleep           1         clears and posts; the sleeper wakes
being woken      0         does nothing: the post is on its way
===============  ========  ==========================================================
"""

import os
import select
import sys
from typing import Final, Protocol

from pipeline.ipc.fence import full_fence
from pipeline.ipc.segment import SegmentError, passing_name

if sys.platform != "win32":
    import posix_ipc

BELL_BYTES: Final = 64
"""A bell has a cache line of its own."""
MAX_SLEEP: Final = 1.0
"""Seconds a worker sleeps at most, whatever its deadline: the net under the handshake."""

_SLEEPING: Final = 0
_CONTROL: Final = 1
_SLOTS_WANTED: Final = 2
_PREWOKEN: Final = 3


class Waiter(Protocol):
    """What a sleeper blocks on. Made before the fork, so that every process can post."""

    def post(self) -> None:
        """Wake the sleeper, or keep its next wait from blocking."""
        ...

    def wait(self, timeout: float) -> bool:
        """Block until a post, at most timeout seconds; whether there was one. Forgets all posts so far."""
        ...

    def close(self) -> None:
        """Give this process's handle back."""
        ...


class SemaphoreWaiter:
    """A POSIX semaphore, for workers that hold no sockets.

    Its name is gone before the constructor returns. The timed wait of POSIX counts on the
    wall clock: a clock set back during a sleep prolongs that one sleep until the next post.
    """

    def __init__(self) -> None:
        try:
            self._semaphore = posix_ipc.Semaphore(
                passing_name(), posix_ipc.O_CREX, mode=0o600, initial_value=0
            )
        except (posix_ipc.Error, OSError) as error:
            # On Linux a semaphore is a file in /dev/shm.
            raise SegmentError(f"no semaphore can be made in shared memory: {error}") from error
        self._semaphore.unlink()

    def post(self) -> None:
        """Raise the semaphore by one."""
        self._semaphore.release()

    def wait(self, timeout: float) -> bool:
        """Block at most timeout seconds. A signal ends the wait early, as if nobody had posted."""
        semaphore = self._semaphore
        try:
            semaphore.acquire(timeout if timeout > 0 else 0)
            while semaphore.value:
                semaphore.acquire(0)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        return True

    def close(self) -> None:
        """Unmap the semaphore in this process."""
        self._semaphore.close()


class EventfdWaiter:
    """A file descriptor for the poller, for workers that hold sockets.

    An eventfd where the system has it, else a pipe. Register ``fileno()`` for reading, edge-triggered:
    each post is an edge. A pipe needs ``clear()`` when it is reported, or it is full some day.
    """

    def __init__(self) -> None:
        self.counts = hasattr(os, "eventfd")
        """Whether posts are only counted, so that nothing has to be taken away ever."""
        if self.counts:
            self._read_fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read_fd, self._write_fd = os.pipe()
            os.set_blocking(self._read_fd, False)
            os.set_blocking(self._write_fd, False)

    def fileno(self) -> int:
        """The descriptor that becomes readable with a post."""
        return self._read_fd

    def post(self) -> None:
        """Make the descriptor readable."""
        try:
            os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
        except BlockingIOError:
            return  # a full pipe is readable already, which is all that a post wants

    def clear(self) -> bool:
        """Forget all posts so far; whether there was one."""
        posted = False
        try:
            while os.read(self._read_fd, 4096):
                posted = True
                if self._read_fd == self._write_fd:  # one read empties an eventfd
                    break
        except BlockingIOError:
            return posted
        return posted

    def wait(self, timeout: float) -> bool:
        """Block at most timeout seconds, and clear."""
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        poll.poll(max(timeout, 0.0) * 1000)
        return self.clear()

    def close(self) -> None:
        """Close the descriptors in this process."""
        os.close(self._read_fd)
        if self._write_fd != self._read_fd:
            os.close(self._write_fd)


def lone_waiter() -> Waiter:
    """For a worker without sockets: a semaphore, else (macOS has no timed wait on one) a descriptor."""
    return SemaphoreWaiter() if posix_ipc.SEMAPHORE_TIMEOUT_SUPPORTED else EventfdWaiter()


class Bell:
    """One worker's bell. The worker itself announces and waits, all others ring."""

    def __init__(self, line: memoryview, waiter: Waiter) -> None:
        """``line`` is BELL_BYTES of the segment, zero at the start."""
        self._words = line[:BELL_BYTES].cast("Q")
        self.waiter = waiter

    def ring(self) -> None:
        """After publish: wake the worker if it sleeps or is about to."""
        full_fence()
        if self._words[_SLEEPING]:
            self._words[_SLEEPING] = 0
            self.waiter.post()

    def ring_for_slots(self) -> None:
        """After publish on a free ring: wake the worker if it sleeps and wants slots."""
        full_fence()
        if self._words[_SLEEPING] and self._words[_SLOTS_WANTED]:
            self._words[_SLEEPING] = 0
            self.waiter.post()

    def prewake(self) -> None:
        """Before publish: something is about to come. Wakes the worker, or keeps it looking if it looks.

        No more than a hint: what is published later is rung for as always.
        """
        self._words[_PREWOKEN] = 1
        self.ring()

    def take_prewake(self) -> bool:
        """For the worker: whether it was prewoken since the last call."""
        if not self._words[_PREWOKEN]:
            return False
        self._words[_PREWOKEN] = 0
        return True

    def notify_control(self) -> None:
        """After a message was sent on the worker's control socket: wake it in any case."""
        self._words[_CONTROL] = 1
        self.waiter.post()

    def take_control(self) -> bool:
        """For the worker: whether control messages were announced since the last call.

        Clears before the caller reads its socket, so that a message sent meanwhile is announced again.
        """
        if not self._words[_CONTROL]:
            return False
        self._words[_CONTROL] = 0
        full_fence()
        return True

    def announce(self, slots_wanted: bool = True) -> None:
        """For the worker: sleep is next. Check every ring (and take_control) after this, before the wait.

        slots_wanted: whether a slot that comes home is a reason to wake; if so check the free rings too.
        """
        self._words[_SLOTS_WANTED] = slots_wanted
        self._words[_SLEEPING] = 1
        full_fence()

    def awake(self) -> None:
        """For the worker: after the wait, or instead of it when the check found work."""
        self._words[_SLEEPING] = 0
