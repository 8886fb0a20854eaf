"""A kqueue built on epoll, which behaves like macOS's kevent(2) for sockets and pipes.

This module looks like the ``select`` module of a system with kqueue, as far as the poller uses it. Each
filter has an epoll of its own. A descriptor can be in an epoll only once, but kqueue has separate filters for
reading and writing.

==========================  ==================================================================
as on macOS                 Each filter gives one event. EV_CLEAR reports each change once. EV_EOF
                            comes on the read filter when the peer sends nothing more, and on the
                            write filter when nothing can be sent. To add a filter again does not
                            change its flags. A queue is lost after a fork. A queue can watch a
                            queue. A pipe without a reader cannot be watched for writing (EPIPE).
different                   The own shutdown(SHUT_WR) gives no EV_EOF on the write filter. fflags
                            of a broken socket are always ECONNRESET.
==========================  ==================================================================
"""

import errno
import os
import select as system
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

KQ_FILTER_READ: Final = -1
KQ_FILTER_WRITE: Final = -2
KQ_EV_ADD: Final = 0x0001
KQ_EV_DELETE: Final = 0x0002
KQ_EV_CLEAR: Final = 0x0020
KQ_EV_EOF: Final = 0x8000

# Kept now, because a test may hide these names from other modules.
_epoll: Final = system.epoll
_poll: Final = system.poll
_IN: Final = system.EPOLLIN | system.EPOLLRDHUP
_OUT: Final = system.EPOLLOUT
_READ_ENDED: Final = system.EPOLLRDHUP | system.EPOLLHUP | system.EPOLLERR
_WRITE_ENDED: Final = system.EPOLLHUP | system.EPOLLERR
_ERROR: Final = system.EPOLLERR
_EDGE: Final = system.EPOLLET
_POLLERR: Final = system.POLLERR


class kevent(NamedTuple):  # noqa: N801  (its name in the select module)
    """A change or an event."""

    ident: int
    filter: int = KQ_FILTER_READ
    flags: int = KQ_EV_ADD
    fflags: int = 0
    data: int = 0
    udata: int = 0


class kqueue:  # noqa: N801
    """A queue. See the module's docstring."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._whole = _epoll()
        self._filters = {KQ_FILTER_READ: _epoll(), KQ_FILTER_WRITE: _epoll()}
        for inner in self._filters.values():
            self._whole.register(inner.fileno(), system.POLLIN)

    def fileno(self) -> int:
        """A descriptor that is readable when the queue has an event."""
        return self._whole.fileno()

    def close(self) -> None:
        """Close the queue."""
        for each in (*self._filters.values(), self._whole):
            each.close()

    def control(
        self, changes: Iterable[kevent] | None, max_events: int, timeout: float | None = None
    ) -> list[kevent]:
        """Make changes, then wait for events. With max_events 0, a failed change raises OSError."""
        if os.getpid() != self._owner:
            raise OSError(errno.EBADF, "a kqueue is not inherited by fork")
        for change in changes or ():
            self._change(change)
        if max_events <= 0 or not self._whole.poll(timeout, 2):
            return []
        found: list[kevent] = []
        for number, inner in self._filters.items():
            room = max_events - len(found)
            if room > 0:
                found += [_event(fd, number, mask) for fd, mask in inner.poll(0, room)]
        return found

    def _change(self, change: kevent) -> None:
        inner = self._filters[change.filter]
        fd = change.ident
        if change.flags & KQ_EV_DELETE:
            inner.unregister(fd)  # FileNotFoundError if there is no such filter, like ENOENT of kevent(2)
            return
        if change.filter == KQ_FILTER_WRITE and _is_pipe_without_reader(fd):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        mask = _IN if change.filter == KQ_FILTER_READ else _OUT
        edge = _EDGE if change.flags & KQ_EV_CLEAR else 0
        try:
            inner.register(fd, mask | edge)
        except FileExistsError:
            return


def _event(fd: int, number: int, mask: int) -> kevent:
    ended = mask & (_READ_ENDED if number == KQ_FILTER_READ else _WRITE_ENDED)
    return kevent(fd, number, KQ_EV_EOF if ended else 0, errno.ECONNRESET if mask & _ERROR else 0)


def _is_pipe_without_reader(fd: int) -> bool:
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return False
    look = _poll()
    look.register(fd, 0)
    return any(found & _POLLERR for _, found in look.poll(0))
