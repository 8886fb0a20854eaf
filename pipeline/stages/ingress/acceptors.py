"""The listeners of ingress: where guests arrive besides /connect, and which guest arrived through which.

The supervisor hands over bound sockets with the request Open (pipeline.ipc.messages). It gets a GuestEvent
when a guest leaves, or when no guest can arrive any more. The log also reports that a guest of /connect has
left. This module knows no protocol (pipeline.links.protocols does) and keeps no links (ports does).
"""

from collections.abc import Callable
from typing import Final

from pipeline.counters import INDEX
from pipeline.ipc import messages
from pipeline.links import protocols
from pipeline.links.base import Link, LinkClosed
from pipeline.links.listener import Guest, LinkResources, Listener
from pipeline.stages.worker import Message, Worker

_ACCEPT_FAILED: Final = INDEX["link_accept_failed"]


class Acceptors:
    """All listeners. To them it is the owner of the links (pipeline.links.listener.Owner)."""

    def __init__(
        self,
        worker: Worker,
        resources: LinkResources,
        add: Callable[[Guest], bool],
        remove: Callable[[Link, LinkClosed], None],
    ) -> None:
        """add takes a guest, or closes it and returns False. remove ends a link."""
        self._worker = worker
        self._resources = resources
        self._add = add
        self._remove = remove
        self._listeners: list[Listener] = []
        self._listener_of: dict[Link, Listener] = {}
        self._closed = False

    def open(self, ask: messages.Open, fds: list[int]) -> Message:
        """Serve the request Open, with its descriptors."""
        self.add(protocols.make(ask.protocol, fds, once=bool(ask.once), macs=ask.macs))
        return {}

    def add(self, listener: Listener) -> None:
        """Let guests arrive through a listener."""
        self._listeners.append(listener)
        listener.open(self._worker, self._resources, self)

    def deadline(self) -> float:
        """When a listener has something to do without an event."""
        return min((listener.deadline() for listener in self._listeners), default=float("inf"))

    def on_timer(self, now: float) -> None:
        """Let each listener do what is due."""
        for listener in list(self._listeners):
            listener.on_timer(now)

    def on_left(self, number: int, guest: Guest, error: LinkClosed) -> None:
        """A link of the stage is over and closed: because of its guest, unless close() was called before."""
        log, opened_by = self._worker.log, guest.opened_by()
        if not self._closed:
            text = error.log_text(guest.peer)
            log.error(text, link=number, protocol=guest.protocol, peer=guest.peer, **opened_by)
        log.info("guest disconnected", link=number, error=str(error), **opened_by)
        self._notify_left(guest, error)

    def _notify_left(self, guest: Guest, error: LinkClosed) -> None:
        listener = self._listener_of.pop(guest.link, None)
        if listener is None:
            return
        text = error.log_text(guest.peer)
        left = messages.GuestEvent("left", listener.protocol, str(error), guest.peer, text)
        self._worker.send_event(left.encode())
        listener.on_left(guest.link)

    def close(self) -> None:
        """Close all listeners. Their links live on."""
        self._closed = True
        self._listener_of.clear()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    # --- what listeners report -----------------------------------------------------------

    def attach(self, guest: Guest, listener: Listener) -> None:
        """See pipeline.links.listener.Owner."""
        self._listener_of[guest.link] = listener
        if not self._add(guest):
            self._notify_left(guest, LinkClosed("too many guests"))

    def hang_up(self, link: Link, text: str) -> None:
        """See pipeline.links.listener.Owner."""
        self._remove(link, LinkClosed(text))

    def refuse(self, listener: Listener, text: str, reason: str) -> None:
        """See pipeline.links.listener.Owner."""
        if reason:
            self._worker.counts[INDEX[reason]] += 1
        self._worker.log.warning("guest refused", protocol=listener.protocol, reason=text)

    def fail(self, listener: Listener, text: str) -> None:
        """See pipeline.links.listener.Owner."""
        self._worker.counts[_ACCEPT_FAILED] += 1
        self._worker.log.error("no more guests", protocol=listener.protocol, error=text)
        self._worker.send_event(messages.GuestEvent("failed", listener.protocol, text).encode())
