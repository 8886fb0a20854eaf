"""What successors of workers have to be told again: the supervisor remembers it for them.

Forwards are not here, since their list is in forwarder.py anyway. A new configuration reaches successors when
they are forked.
"""

import os
import socket
from collections.abc import Container, Iterator, Sequence
from typing import Final

from pipeline.ipc import healing_messages, messages
from pipeline.ipc.channel import close_all
from pipeline.links import protocols
from pipeline.links.places import ROWS, Place, Places
from pipeline.system import descriptor_limit
from pipeline.topology import DEMUX, INGRESS, RESOLVER

LINKS_PART: Final = 8
"""Of the descriptors, one part in this many may be for links. Further links do not outlive ingress."""
_WITH_PLACE: Final = frozenset({"qemu", "le16"})
"""Forms of links on byte streams (pipeline.links.adopted)."""
_STREAMS: Final = frozenset({protocols.STDIO})
"""A guest on these descriptors is in the middle of a stream, whose place nobody knows any more."""


class Memory:
    """What the supervisor keeps for successors of ingress and of the resolver."""

    def __init__(self) -> None:
        self.leases: healing_messages.LeasesEvent | None = None
        """The leases after their last change."""
        self.zones: list[messages.DnsAdd] = []
        """What clients of the API have added to the zones, in order."""
        self.numbers: healing_messages.Know | None = None
        """Up to which number a former daemon has numbered links."""
        self._opened: list[tuple[str, messages.Open, list[int]]] = []
        """What ingress has opened, each with its URL and its descriptors."""
        self._capture = -1
        self._up: dict[int, healing_messages.LinkUpEvent] = {}
        """All links that are up, by number."""
        self._links: dict[int, tuple[healing_messages.LinkUpEvent, int]] = {}
        """Those that can outlive ingress, each with its descriptor."""
        self._inner: dict[int, list[bytes]] = {}
        """The own addresses of a link that have inner ones (healing_messages.InnerEvent), by its number."""
        soft = descriptor_limit.soft()
        self._most_links = ROWS if soft < 0 else min(ROWS, soft // LINKS_PART)

    def link_up(self, link: healing_messages.LinkUpEvent, fds: list[int]) -> None:
        """Ingress has a link. With a descriptor, the link can outlive ingress. This object owns it."""
        self.link_down(link.number)
        if len(self._up) < descriptor_limit.MAX_LINKS:
            self._up[link.number] = link
        if len(self._links) >= self._most_links:
            close_all(fds)
        elif fds:
            self._links[link.number] = link, fds[0]
            close_all(fds[1:])

    def has_inner(self, number: int, places: list[bytes]) -> None:
        """These addresses of a link have inner ones."""
        if number in self._up and places:
            self._inner[number] = places

    def is_up(self, number: int) -> bool:
        """Whether a guest has the link with this number."""
        return number in self._up

    def link_down(self, number: int) -> healing_messages.LinkUpEvent | None:
        """A link is gone. Returns what LinkUpEvent said of it; None for an unknown number."""
        found = self._links.pop(number, None)
        if found is not None:
            os.close(found[1])
        self._inner.pop(number, None)
        return self._up.pop(number, None)

    def links_that_go_on(self, places: Places, slots: list[memoryview]) -> dict[int, int]:
        """Ingress is dead: the links that its successor can carry on, with their guests.

        A link on a byte stream needs a place that is certain. One may be down although ingress could not say
        so any more. Then it has no place.
        """
        places.keep(self._links)
        return {
            number: link.guest
            for number, (link, _) in self._links.items()
            if link.form not in _WITH_PLACE or places.place(number, slots) is not None
        }

    def end_others(self, places: Places, going_on: Container[int]) -> list[healing_messages.LinkUpEvent]:
        """Close all links but these. Returns the others."""
        ended = []
        for number in {**self._up, **self._links}:
            if number not in going_on:
                places.free(number)
                if (link := self.link_down(number)) is not None:
                    ended.append(link)
        return ended

    def adoptions(
        self, places: Places, slots: list[memoryview]
    ) -> Iterator[tuple[healing_messages.Adopt, int]]:
        """What a successor of ingress needs to carry on these links, each with its descriptor."""
        for number, (link, fd) in list(self._links.items()):
            place = places.place(number, slots) or Place(b"", 0)
            places.free(number)
            ask = healing_messages.Adopt(
                number,
                link.guest,
                link.protocol,
                link.peer,
                link.identity,
                link.form,
                place.head,
                place.skip,
                link.vnet,
                places=self._inner.get(number),
            )
            yield ask, fd

    def opens(self, ask: messages.Open, fds: Sequence[socket.socket | int], url: str) -> None:
        """Ingress gets these sockets, on which guests arrive. The caller keeps its own. url: their place."""
        if ask.protocol not in _STREAMS:
            copies = [os.dup(fd if isinstance(fd, int) else fd.fileno()) for fd in fds]
            self._opened.append((url, ask, copies))

    @property
    def guest_places(self) -> list[tuple[str, str, list[int]]]:
        """Protocol, URL and descriptors of each place where guests arrive."""
        return [(ask.protocol, url, fds) for url, ask, fds in self._opened]

    @property
    def capture(self) -> int:
        """The descriptor of the capture file, -1 if there is none."""
        return self._capture

    def captures(self, fd: int) -> None:
        """Ingress gets this capture file."""
        self._capture = os.dup(fd)

    def for_successor(self, name: str) -> Iterator[tuple[messages.Request, list[int]]]:
        """What a successor of ingress or demux gets when all workers breathe, with descriptors."""
        if name == INGRESS:
            if self._capture >= 0:
                yield messages.Capture(), [self._capture]
            for _, ask, fds in self._opened:
                yield ask, fds
        elif name == DEMUX and (addrs := self.guest_addresses()):
            # The switch drops frames for guests that it does not know, and a guest may be silent for long.
            yield healing_messages.Seek(addrs), []

    def guest_addresses(self) -> list[bytes]:
        """The addresses of guests with a lease, packed as in Accepted."""
        leases = self.leases
        rows = [*leases.ipv4, *leases.ipv6] if leases is not None else []
        return [row[0] for row in rows if row and isinstance(row[0], bytes)]

    def first_for(self, name: str) -> Iterator[messages.Request]:
        """What a successor of the resolver or of ingress is told before guests are served."""
        if name == RESOLVER:
            if self.leases is not None:
                yield healing_messages.RestoreLeases.with_fields_of(self.leases)
            yield from self.zones
        elif name == INGRESS and self.numbers is not None:
            yield self.numbers

    def close(self) -> None:
        """Close all descriptors."""
        for _, _, fds in self._opened:
            close_all(fds)
        self._opened.clear()
        for number in list(self._links):
            self.link_down(number)
        self._up.clear()
        if self._capture >= 0:
            os.close(self._capture)
            self._capture = -1
