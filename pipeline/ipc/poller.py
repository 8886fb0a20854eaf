"""Waiting for sockets: which of a process's descriptors are ready, and whose callbacks to call.

One face (:class:`Poller`) over what the system has. On Linux that is epoll, whose own methods the loop
calls: there is no Python between them. On macOS and the BSDs it is kqueue, which tells of reading and of
writing apart, and of the end of each; here that becomes one mask a descriptor, as on Linux.
"""

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipeline.ipc import events
from pipeline.ipc.wake import EventfdWaiter

Events = list[tuple[int, int]]
"""(descriptor, bits of pipeline.events)"""


class Poller:
    """Descriptors and their callbacks, for a process whose waiter is a descriptor itself.

    A subclass sets the calls of the system below, before it calls this constructor.
    """

    poll: Callable[[float, int], Events]
    """poll(timeout, max_events) waits at most timeout seconds for events, which dispatch() delivers."""
    modify: Callable[[int, int], object]
    """modify(fd, mask): wait for other events of a registered descriptor."""
    close: Callable[[], object]
    """Give the descriptors of the poller itself back; the end of the process does it too."""
    _add: Callable[[int, int], object]
    _remove: Callable[[int], object]

    def __init__(self, waiter: EventfdWaiter) -> None:
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self.rung = False
        """Whether a bell was rung since the owner of the poller has last set this to False."""
        self._clear = None if waiter.counts else waiter.clear
        self.register(waiter.fileno(), events.READ | events.EDGE, self._on_bell)

    def _on_bell(self, _events: int) -> None:
        if self._clear is not None:
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
        self.close = epoll.close
        self._add = epoll.register
        self._remove = epoll.unregister
        super().__init__(waiter)


class KqueuePoller(Poller):
    """kqueue, of macOS and the BSDs.

    A filter says when its direction is over (EV_EOF). Epoll's hang-up means that both are, which may be
    told in two events far apart, so what has ended is remembered. The read filter alone tells no hang-up,
    but READ, and the end is what a read finds. Who waits for nothing hears of a hang-up all the same, as with
    epoll: by a write filter whose news that there is room is not passed on.
    """

    def __init__(self, waiter: EventfdWaiter, system: Any = select) -> None:
        """system: what has the names of the module ``select``, for tests."""
        self._kevent = system.kevent
        self._read: Final[int] = system.KQ_FILTER_READ
        self._write: Final[int] = system.KQ_FILTER_WRITE
        self._delete: Final[int] = system.KQ_EV_DELETE
        self._edge: Final[int] = system.KQ_EV_ADD | system.KQ_EV_CLEAR
        self._level: Final[int] = system.KQ_EV_ADD
        self._eof: Final[int] = system.KQ_EV_EOF
        self._masks: dict[int, int] = {}
        self._filters: dict[int, dict[int, int]] = {}
        """By descriptor: the flags of each filter that the system has."""
        self._ended: dict[int, int] = {}
        """By descriptor: READ and WRITE, where that direction is over."""
        self._dead: Events = []
        """What could not be watched because nobody is at the other end: told by the next poll."""
        self._kqueue = system.kqueue()
        self._control = self._kqueue.control
        self.poll = self._poll
        self.modify = self._watch
        self.close = self._kqueue.close
        self._add = self._begin
        self._remove = self._end
        super().__init__(waiter)

    def _poll(self, timeout: float, max_events: int) -> Events:
        found: dict[int, int] = {}
        if self._dead:
            found.update(self._dead)
            self._dead.clear()
            timeout = 0.0
        for event in self._control(None, max_events, timeout):
            fd = event.ident
            mask = self._masks.get(fd, 0)
            if event.filter == self._read:
                bits = way = events.READ
            else:
                bits = way = events.WRITE
            if event.flags & self._eof:
                bits |= events.READ_HANGUP if way == events.READ else 0
                ended = self._ended[fd] = self._ended.get(fd, 0) | way
                if ended == events.READ | events.WRITE or self._read not in self._filters.get(fd, ()):
                    bits |= events.HANGUP
                if event.fflags:
                    bits |= events.ERROR
            if bits := bits & (mask | events.HANGUP | events.ERROR):
                found[fd] = found.get(fd, 0) | bits
        return list(found.items())

    def _begin(self, fd: int, mask: int) -> None:
        self._filters[fd] = {}
        self._ended.pop(fd, None)
        self._watch(fd, mask)

    def _watch(self, fd: int, mask: int) -> None:
        self._masks[fd] = mask
        add = self._edge if mask & events.EDGE else self._level
        wanted = {}
        if mask & (events.READ | events.READ_HANGUP):
            wanted[self._read] = add
        if mask & events.WRITE:
            wanted[self._write] = add
        elif not wanted:
            wanted[self._write] = self._edge
        has = self._filters[fd]
        # What changes its flags is made anew: adding it once more would leave it level or edge as it was.
        for number in [number for number, flags in has.items() if wanted.get(number) != flags]:
            self._forget(fd, number)
        for number, flags in wanted.items():
            if number in has:
                continue
            try:
                self._control([self._kevent(fd, number, flags)], 0, 0)
            except BrokenPipeError:
                self._dead.append((fd, events.HANGUP | events.ERROR))
            else:
                has[number] = flags

    def _end(self, fd: int) -> None:
        for number in list(self._filters[fd]):
            self._forget(fd, number)
        del self._filters[fd], self._masks[fd]
        self._ended.pop(fd, None)
        self._dead = [dead for dead in self._dead if dead[0] != fd]

    def _forget(self, fd: int, number: int) -> None:
        del self._filters[fd][number]
        with suppress(FileNotFoundError):  # ENOENT: the system has dropped the filter by itself
            self._control([self._kevent(fd, number, self._delete)], 0, 0)


def open_poller(waiter: EventfdWaiter) -> Poller:
    """The poller of this system, made in the process that polls: a child does not inherit every kind."""
    return EpollPoller(waiter) if hasattr(select, "epoll") else KqueuePoller(waiter)
