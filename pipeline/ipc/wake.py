"""How worker processes wake each other, without a system call while all of them are busy.

Each worker has one *bell*: a cache line of shared memory with a few flags, and a *waiter* (an eventfd or
semaphore) on which the worker blocks. One worker sleeps, and any number of others ring. The protocol between
them is Dekker's, with the flag ``sleeping`` on one side and the rings on the other::

    sleeper                              ringer
    sleeping = 1                         publish (prod_idx = n)
    full fence                           full fence
    any ring pending? -> awake, work     sleeping == 1? -> sleeping = 0, post
    waiter.wait(min(deadline, MAX_SLEEP))
    sleeping = 0

Both fences are needed. Without them each side may read the other's word before its own store is visible.
Then the worker sleeps although an entry waits, and no one rings for it.

The ringer clears the flag, so that only the first of several rings costs a system call. A ringer may be
delayed between its test of the flag and its clear. The clear may then undo a later announcement. But the
ringer posts after it, which wakes the sleeper. If the ringer dies in between, the sleep ends after MAX_SLEEP.
A post to a worker that is awake costs it one turn without work. A waiter forgets all posts at once.

A slot number that comes home is not work by itself. A sleeper with enough slots is not woken for more
(``ring_for_slots``). It takes them when it wakes for another reason.

A *prewake* is a hint that some worker will publish an entry soon. It wakes a sleeper early, and makes a
worker that busy-polls go on. Correctness does not depend on it.

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
from pipeline.ipc.segment import SegmentError, temporary_name

if sys.platform != "win32":
    import posix_ipc

BELL_BYTES: Final = 64
"""A bell has a cache line of its own."""
MAX_SLEEP: Final = 1.0
"""The longest sleep in seconds, whatever the worker's deadline, in case the handshake fails."""

_SLEEPING: Final = 0
_CONTROL: Final = 1
_SLOTS_WANTED: Final = 2
_PREWOKEN: Final = 3


class Waiter(Protocol):
    """What a sleeper blocks on. Made before the fork, so that every process can post."""

    def post(self) -> None:
        """Wake the sleeper, or make its next wait return at once."""
        ...

    def wait(self, timeout: float) -> bool:
        """Block until a post, at most timeout seconds. Returns whether there was one. Forgets all posts."""
        ...

    def close(self) -> None:
        """Close this process's handle."""
        ...


class SemaphoreWaiter:
    """A POSIX semaphore, for workers that hold no sockets.

    The constructor removes its name. POSIX's timed wait uses the wall clock: if the clock is set back during
    a sleep, that sleep may last until the next post. So the supervisor posts then (pipeline.daemon.healing).
    """

    def __init__(self) -> None:
        try:
            self._semaphore = posix_ipc.Semaphore(
                temporary_name(), posix_ipc.O_CREX, mode=0o600, initial_value=0
            )
        except (posix_ipc.Error, OSError) as error:
            # On Linux a semaphore is a file in /dev/shm.
            raise SegmentError(f"no semaphore can be made in shared memory: {error}") from error
        self._semaphore.unlink()

    def post(self) -> None:
        """Raise the semaphore by one."""
        self._semaphore.release()

    def wait(self, timeout: float) -> bool:
        """See Waiter. A signal ends the wait early; the result is then False."""
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
    """A descriptor that a poller can watch, for workers that hold sockets.

    It is an eventfd where the system has it, else a pipe. Register ``fileno()`` for reading, edge-triggered:
    each post is an edge. Whenever a pipe is reported, call ``clear()``, or it fills up in time.
    """

    def __init__(self) -> None:
        self.counts = hasattr(os, "eventfd")
        """Whether this is an eventfd: it only counts posts, and clear() is not needed."""
        if self.counts:
            self._read_fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read_fd, self._write_fd = os.pipe()
            os.set_blocking(self._read_fd, False)
            os.set_blocking(self._write_fd, False)

    def fileno(self) -> int:
        """The descriptor that a post makes readable."""
        return self._read_fd

    def post(self) -> None:
        """Make the descriptor readable."""
        try:
            os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
        except BlockingIOError:
            return  # a full pipe is readable already

    def clear(self) -> bool:
        """Forget all posts so far. Returns whether there was one."""
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
        """See Waiter."""
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        poll.poll(max(timeout, 0.0) * 1000)
        return self.clear()

    def close(self) -> None:
        """See Waiter."""
        os.close(self._read_fd)
        if self._write_fd != self._read_fd:
            os.close(self._write_fd)


def lone_waiter() -> Waiter:
    """The waiter of a worker without sockets: a semaphore, or a descriptor if those have no time-out."""
    return SemaphoreWaiter() if posix_ipc.SEMAPHORE_TIMEOUT_SUPPORTED else EventfdWaiter()


class Bell:
    """One worker's bell. The worker itself announces and waits. All others ring."""

    def __init__(self, line: memoryview, waiter: Waiter) -> None:
        """line: BELL_BYTES of the segment, initially zero."""
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
        """Before publish: wake the worker, or make it go on if it busy-polls.

        This is only a hint. Ring after the publish as usual.
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
        """After a message was sent on the worker's control socket: wake the worker in any case."""
        self._words[_CONTROL] = 1
        self.waiter.post()

    def take_control(self) -> bool:
        """For the worker: whether notify_control() was called since the last call.

        The flag is cleared before the caller reads its socket. So a message that is sent meanwhile sets it
        again.
        """
        if not self._words[_CONTROL]:
            return False
        self._words[_CONTROL] = 0
        full_fence()
        return True

    def announce(self, slots_wanted: bool = True) -> None:
        """For the worker: announce a sleep. Check every ring and take_control() after this, before the wait.

        slots_wanted: wake also when a slot comes home. If so, check the free rings too.
        """
        self._words[_SLOTS_WANTED] = 1 if slots_wanted else 0
        self._words[_SLEEPING] = 1
        full_fence()

    def clear(self) -> None:
        """The worker is dead. Its successor begins awake."""
        for word in (_SLEEPING, _CONTROL, _SLOTS_WANTED, _PREWOKEN):
            self._words[word] = 0

    def awake(self) -> None:
        """For the worker: the sleep is over, or the check found work, so there is none."""
        self._words[_SLEEPING] = 0
