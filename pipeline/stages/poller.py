"""Waiting for sockets: which of a process's descriptors are ready, and whose callbacks to call.

One face (:class:`Poller`) over what the system has. On Linux that is epoll, whose own methods the loop
calls: there is no Python between them.
"""

import select
from collections.abc import Callable
from functools import partial

from pipeline import events
from pipeline.shm.wake import EventfdWaiter

Events = list[tuple[int, int]]
"""(descriptor, bits of pipeline.events)"""


class Poller:
    """Descriptors and their callbacks, for a process whose waiter is a descriptor itself.

    A subclass sets the calls of the system below, before it calls this constructor.
    """

    poll: Callable[[float, int], Events]
    """poll(timeout, max_events) waits at most timeout seconds for events, which dispatch() delivers."""
    ready: Callable[[], object]
    """True in a condition if poll() would return something at once. It takes nothing away."""
    modify: Callable[[int, int], object]
    """modify(fd, mask): wait for other events of a registered descriptor."""
    _add: Callable[[int, int], object]
    _remove: Callable[[int], object]

    def __init__(self, waiter: EventfdWaiter) -> None:
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self.rung = False
        """Whether a bell was rung since the owner of the poller has last set this to False."""
        self._clear = waiter.clear
        self.register(waiter.fileno(), events.READ, self._on_bell)

    def _on_bell(self, _events: int) -> None:
        self._clear()
        self.rung = True

    def register(self, fd: int, mask: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) in each turn in which fd is ready."""
        self._add(fd, mask)
        self._callbacks[fd] = callback

    def unregister(self, fd: int) -> None:
        """Forget a registered descriptor, which must still be open."""
        del self._callbacks[fd]
        self._remove(fd)

    def registered(self, fd: int) -> bool:
        """Whether fd has a callback."""
        return fd in self._callbacks

    def dispatch(self, found: Events) -> None:
        """Deliver what poll() returned."""
        callbacks = self._callbacks
        for fd, mask in found:
            # A callback before may have unregistered it.
            if (callback := callbacks.get(fd)) is not None:
                callback(mask)


class EpollPoller(Poller):
    """epoll, of Linux."""

    def __init__(self, waiter: EventfdWaiter) -> None:
        epoll = select.epoll()
        self.poll = epoll.poll
        self.modify = epoll.modify
        self._add = epoll.register
        self._remove = epoll.unregister
        poll = select.poll()
        poll.register(epoll.fileno(), select.POLLIN)
        self.ready = partial(poll.poll, 0)
        super().__init__(waiter)


def open_poller(waiter: EventfdWaiter) -> Poller:
    """The poller of this system. To be made in the process that polls: a child inherits none."""
    return EpollPoller(waiter)
