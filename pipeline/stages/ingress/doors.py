"""The entrances of ingress: where guests come in besides /connect, and who came through which.

The supervisor hands over bound sockets with the request Open, and gets a GuestEvent when a guest leaves or an
entrance fails (pipeline.ipc.messages). In the log, /connect's guests are seen off as well. Knows no protocol
(pipeline.links.protocols does) and keeps no links (pipeline.stages.ingress does).
"""

from collections.abc import Callable
from typing import Final

from pipeline.counters import INDEX
from pipeline.ipc import messages
from pipeline.links import protocols
from pipeline.links.base import Link, LinkClosed
from pipeline.links.entrance import Entrance, Guest, Room
from pipeline.stages.worker import Message, Worker

_ACCEPT_FAILED: Final = INDEX["link_accept_failed"]


class Doors:
    """All entrances. Is the owner (pipeline.links.entrance.Owner) of what comes in, for the stage."""

    def __init__(
        self,
        worker: Worker,
        room: Room,
        add: Callable[[Guest], bool],
        remove: Callable[[Link, LinkClosed], None],
    ) -> None:
        """add takes a guest, or closes it and returns False; remove ends a link by itself."""
        self._worker = worker
        self._room = room
        self._add = add
        self._remove = remove
        self._entrances: list[Entrance] = []
        self._came: dict[Link, Entrance] = {}
        self._closed = False

    def open(self, message: Message, fds: list[int]) -> Message:
        """Serve the request Open, with its sockets."""
        ask = messages.Open.decode(message)
        entrance = protocols.make(ask.protocol, fds, once=bool(ask.once), macs=ask.macs)
        self._entrances.append(entrance)
        entrance.open(self._worker, self._room, self)
        return {}

    def deadline(self) -> float:
        """When an entrance has something to do by itself."""
        return min((entrance.deadline() for entrance in self._entrances), default=float("inf"))

    def on_timer(self, now: float) -> None:
        """Let each entrance do what is due."""
        for entrance in list(self._entrances):
            entrance.on_timer(now)

    def on_left(self, number: int, guest: Guest, error: LinkClosed) -> None:
        """A link of the stage is over and closed, by itself unless the doors are closed."""
        log = self._worker.log
        if not self._closed:
            log.error(error.farewell(guest.peer), link=number, protocol=guest.protocol, peer=guest.peer)
        log.info("guest disconnected", link=number, error=str(error))
        self._tell(guest, error)

    def _tell(self, guest: Guest, error: LinkClosed) -> None:
        entrance = self._came.pop(guest.link, None)
        if entrance is None:
            return
        text = error.farewell(guest.peer)
        left = messages.GuestEvent("left", entrance.protocol, str(error), guest.peer, text)
        self._worker.send_event(left.encode())
        entrance.on_left(guest.link)

    def close(self) -> None:
        """Close all entrances."""
        self._closed = True
        self._came.clear()
        for entrance in self._entrances:
            entrance.close()
        self._entrances.clear()

    # --- what entrances report -----------------------------------------------------------

    def attach(self, guest: Guest, entrance: Entrance) -> None:
        """See pipeline.links.entrance.Owner."""
        self._came[guest.link] = entrance
        if not self._add(guest):
            self._tell(guest, LinkClosed("too many guests"))

    def hang_up(self, link: Link, text: str) -> None:
        """See pipeline.links.entrance.Owner."""
        self._remove(link, LinkClosed(text))

    def refuse(self, entrance: Entrance, text: str, reason: str) -> None:
        """See pipeline.links.entrance.Owner."""
        if reason:
            self._worker.counts[INDEX[reason]] += 1
        self._worker.log.warning("guest refused", protocol=entrance.protocol, reason=text)

    def fail(self, entrance: Entrance, text: str) -> None:
        """See pipeline.links.entrance.Owner."""
        self._worker.counts[_ACCEPT_FAILED] += 1
        self._worker.log.error("no more guests", protocol=entrance.protocol, error=text)
        self._worker.send_event(messages.GuestEvent("failed", entrance.protocol, text).encode())
