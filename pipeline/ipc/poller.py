"""Waits until descriptors of a process are ready, and calls their callbacks.

Poller is the common interface. On Linux it is epoll: the loop calls epoll's own methods, without Python code
in between. On macOS and the BSDs it is kqueue, which reports reading and writing, and the end of each, as
separate events. KqueuePoller combines them into one mask for each descriptor, as epoll has it.
"""

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipeline.ipc import events
from pipeline.ipc.wake import EventfdWaiter

Events = list[tuple[int, int]]
"""(descriptor, bits of pipeline.ipc.events)"""


class Poller:
    """Descriptors and their callbacks, for a process whose waiter is a descriptor itself.

    A subclass sets the callables below before it calls this constructor.
    """

    poll: Callable[[float, int], Events]
    """poll(timeout, max_events) waits at most timeout seconds. Pass its result to dispatch()."""
    modify: Callable[[int, int], object]
    """modify(fd, mask): wait for other events of a registered descriptor."""
    close: Callable[[], object]
    """Close the poller's own descriptor. The end of the process does that too."""
    _add: Callable[[int, int], object]
    _remove: Callable[[int], object]

    def __init__(self, waiter: EventfdWaiter) -> None:
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self.rung = False
        """Whether the bell has rung since the owner of the poller last set this to False."""
        self._clear = None if waiter.counts else waiter.clear
        self.register(waiter.fileno(), events.READ | events.EDGE, self._on_bell)

    def _on_bell(self, _events: int) -> None:
        if self._clear is not None:
            self._clear()
        self.rung = True

    def register(self, fd: int, mask: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) from dispatch() whenever fd is ready."""
        self._add(fd, mask)
        self._callbacks[fd] = callback

    def unregister(self, fd: int) -> None:
        """Forget a registered descriptor, which must still be open."""
        del self._callbacks[fd]
        self._remove(fd)

    def forget(self, fd: int) -> None:
        """Forget a registered descriptor that the caller closes next.

        The system forgets it with its close, if no other process or descriptor has the same socket.
        """
        del self._callbacks[fd]

    def registered(self, fd: int) -> bool:
        """Whether fd has a callback."""
        return fd in self._callbacks

    def dispatch(self, found: Events) -> None:
        """Call the callbacks of the events that poll() returned."""
        callbacks = self._callbacks
        for fd, mask in found:
            # An earlier callback may have unregistered it.
            if (callback := callbacks.get(fd)) is not None:
                callback(mask)


class EpollPoller(Poller):
    """epoll (Linux)."""

    def __init__(self, waiter: EventfdWaiter) -> None:
        epoll = select.epoll()
        self.poll = epoll.poll
        self.modify = epoll.modify
        self.close = epoll.close
        self._add = epoll.register
        self._remove = epoll.unregister
        super().__init__(waiter)


class KqueuePoller(Poller):
    """kqueue (macOS and the BSDs), which has a filter for reading and one for writing.

    A filter reports the end of its direction (EV_EOF). HANGUP means that both directions have ended. Kqueue
    may report that in two events far apart, so the poller remembers which directions have ended. With a read
    filter alone, an end is reported as READ, and the read then returns the end of the stream. A descriptor
    that is registered for no events must still report HANGUP. It gets a write filter, whose reports of room
    are dropped.
    """

    def __init__(self, waiter: EventfdWaiter, system: Any = select) -> None:
        """system: an object with the names of the module ``select``, for tests."""
        self._kevent = system.kevent
        self._read: Final[int] = system.KQ_FILTER_READ
        self._write: Final[int] = system.KQ_FILTER_WRITE
        self._delete: Final[int] = system.KQ_EV_DELETE
        self._edge: Final[int] = system.KQ_EV_ADD | system.KQ_EV_CLEAR
        self._level: Final[int] = system.KQ_EV_ADD
        self._eof: Final[int] = system.KQ_EV_EOF
        self._masks: dict[int, int] = {}
        self._filters: dict[int, dict[int, int]] = {}
        """By descriptor: the filters that are set in the kernel, and their flags."""
        self._ended: dict[int, int] = {}
        """By descriptor: READ and WRITE for the directions that have ended."""
        self._dead: Events = []
        """Descriptors that could not be watched because the other end is gone. The next poll reports them."""
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
                way = events.READ
                bits = events.READ | events.URGENT
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
        # Adding a filter again does not change it between level and edge: delete it, and add a new one.
        for number in [number for number, flags in has.items() if wanted.get(number) != flags]:
            self._delete_filter(fd, number)
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
            self._delete_filter(fd, number)
        self._drop(fd)

    def forget(self, fd: int) -> None:
        """See Poller.forget(). The filters go with the descriptor."""
        super().forget(fd)
        self._drop(fd)

    def _drop(self, fd: int) -> None:
        del self._filters[fd], self._masks[fd]
        self._ended.pop(fd, None)
        self._dead = [dead for dead in self._dead if dead[0] != fd]

    def _delete_filter(self, fd: int, number: int) -> None:
        del self._filters[fd][number]
        with suppress(FileNotFoundError):  # ENOENT: the kernel has removed the filter itself
            self._control([self._kevent(fd, number, self._delete)], 0, 0)


def open_poller(waiter: EventfdWaiter) -> Poller:
    """The poller of this system. Call it in the process that polls: a child does not inherit a kqueue."""
    return EpollPoller(waiter) if hasattr(select, "epoll") else KqueuePoller(waiter)
