"""Which events of the host socket of a connection egress waits for, at few system calls.

A connection to loopback is established at once, and takes bytes. The poller would report that with an event
of its own. So it is asked for room only when a write has left some bytes.
"""

from collections.abc import Callable
from typing import Final

from pipeline.host.stream import IS_ALL, IS_END, MAY_BE_MORE, HostStream
from pipeline.ipc import events as ev
from pipeline.stages.worker import Worker

_EVENTS: Final = ev.READ | ev.URGENT | ev.WRITE | ev.READ_HANGUP | ev.EDGE
_CONNECTED_EVENTS: Final = _EVENTS & ~ev.WRITE if ev.HANGUP_WITHOUT_WRITE else _EVENTS
_MORE_EVENTS: Final = ev.URGENT | ev.READ_HANGUP | ev.HANGUP | ev.ERROR
"""After these, there may be more to read although a read was short."""


class Watch:
    """Watches the host socket of one connection."""

    __slots__ = ("_awaits_room", "_stream", "_worker")

    def __init__(self, worker: Worker, stream: HostStream) -> None:
        self._worker = worker
        self._stream = stream
        self._awaits_room = True

    def begin(self, callback: Callable[[int], None], *, connected: bool) -> None:
        """Call callback(events) from now on. connected: the socket is, and nothing was written to it."""
        self._awaits_room = not connected
        if connected:
            self._stream.on_writable()
        events = _CONNECTED_EVENTS if connected else _EVENTS
        self._worker.register(self._stream.sock.fileno(), events, callback)

    def await_room(self) -> None:
        """The socket has not taken all bytes. If there is room by now, that is reported."""
        if not self._awaits_room:
            self._awaits_room = True
            self._worker.modify(self._stream.sock.fileno(), _EVENTS)

    def end(self, *, alone: bool) -> None:
        """Stop watching the socket. The caller closes it next. alone: no other process has ever had it."""
        if alone:
            self._worker.forget(self._stream.sock.fileno())
        else:
            self._worker.unregister(self._stream.sock.fileno())


def short_read(events: int) -> int:
    """What a short read after these events means (see HostStream.on_readable)."""
    more = events & _MORE_EVENTS
    if not more:
        return IS_ALL
    return IS_END if more == ev.READ_HANGUP else MAY_BE_MORE
