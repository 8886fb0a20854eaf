"""How many host sockets the guests' flows may have, and which flow makes room for another.

A flow costs a descriptor, and guests decide how many flows there are. They may not use up the reserve:
connections of forwarded ports need it, and so do guest links in a process that has ingress too.

At the limit, an idle flow makes room for a new one. These can: UDP flows and pings, whose next packet opens
a new socket, and connections whose host has not answered, for which the guest sends its SYN again. The one
without a packet for longest is closed. It belongs to the guest with most sockets of all kinds, so a guest
that opens many pays for them itself. An asker never takes a socket from a guest that has no more than it
has itself. An open connection is never closed for another flow. Half-open connections, whose guest has not
completed its handshake, are known to tcp alone. When nothing here can make room, egress tells tcp
(MAKE_WAY_*).
"""

import errno
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import tally
from pipeline.ipc.ring import Producer
from pipeline.records.streams import MAKE_WAY_ANY, MAKE_WAY_OWN, SocketsUsedUp
from pipeline.stages.worker import Worker

if sys.platform != "win32":
    import resource

RESERVE: Final = 64
"""Descriptors that flows of guests leave free."""
USED_AGAIN_S: Final = 1.0
"""Seconds. Packets of a flow that are closer together do not renew it, so they cost nothing."""
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""The errnos of a system that has no descriptor, although the limit is not reached."""

_TOO_MANY: Final = INDEX["egress_flow_refused_too_many_sockets"]
_EVICTED: Final = INDEX["egress_flow_evicted_too_many_sockets"]


class GuestSocket:
    """A host socket that serves a guest's flow, or several. Its owner reports to SocketBound."""

    def __init__(self, link: int) -> None:
        self.link = link
        """Of the guest; 0 while the guest is not known."""

    def evict(self) -> None:
        """Close the socket, since another flow needs its descriptor. Reports closed() to SocketBound."""
        raise NotImplementedError


class SocketBound:
    """Counts the sockets of guests, and closes idle ones when they reach the limit of this process."""

    def __init__(self, worker: Worker, tcp_out: Iterable[Producer]) -> None:
        """tcp_out: the rings to all tcp workers."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._counts = worker.counts
        self._tcp_out = list(tcp_out)
        self.limit = max(soft - RESERVE, 1) if soft != resource.RLIM_INFINITY else 1 << 30
        self._open = 0
        self._by_link: dict[int, int] = {}
        self._idle: dict[int, OrderedDict[GuestSocket, None]] = {}
        """By link: what may be closed, without a packet for longest first."""

    def __len__(self) -> int:
        return self._open

    @property
    def evictable(self) -> int:
        """Sockets that may be closed for another flow."""
        return sum(map(len, self._idle.values()))

    # --- what owners of sockets report ------------------------------------------------------

    def opened(self, sock: GuestSocket, *, evictable: bool = True) -> None:
        """A socket is open. evictable: it may be closed for another flow."""
        self._open += 1
        tally.add(self._by_link, sock.link, 1)
        if evictable:
            self._idle.setdefault(sock.link, OrderedDict())[sock] = None

    def used(self, sock: GuestSocket) -> None:
        """A packet of an evictable socket went either way."""
        self._idle[sock.link].move_to_end(sock)

    def keep(self, sock: GuestSocket) -> None:
        """The socket may not be closed for another flow any more: its connection is established."""
        idle = self._idle.get(sock.link)
        if idle is not None and sock in idle:
            del idle[sock]
            if not idle:
                del self._idle[sock.link]

    def moved(self, sock: GuestSocket, old_link: int) -> None:
        """The guest of a socket that is not evictable is known now."""
        tally.add(self._by_link, old_link, -1)
        tally.add(self._by_link, sock.link, 1)

    def closed(self, sock: GuestSocket) -> None:
        """The socket is closed."""
        self.keep(sock)
        self._open -= 1
        tally.add(self._by_link, sock.link, -1)

    # --- the bound --------------------------------------------------------------------------

    def refuses(self, link: int) -> bool:
        """Whether one more socket for the guest on link is too many, and none could be closed for it."""
        if self._open < self.limit or self.make_room(link):
            return False
        self._counts[_TOO_MANY] += 1
        return True

    def datagram_socket(self, link: int, make: Callable[[], socket.socket]) -> socket.socket | None:
        """make() if one more socket is allowed, else None, which refuses() has counted. Raises OSError.

        Without a descriptor tcp is told. It may end a half-open connection for the next packet.
        """
        if self.refuses(link):
            self._notify_used_up(link)
            return None
        try:
            try:
                return make()
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR or not self.make_room(link):
                    raise
            return make()
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                self._notify_used_up(link)
            raise

    def _notify_used_up(self, link: int) -> None:
        record = SocketsUsedUp.pack(link, self.way(link))
        for ring in self._tcp_out:
            ring.push(record)

    def make_room(self, link: int) -> bool:
        """Close a socket for one of the guest on link. False if that would be unfair, or none may be
        closed."""
        payer, most = link, self._held(link)
        for other in self._idle:
            if other != link and (held := self._held(other)) > most:
                payer, most = other, held
        idle = self._idle.get(payer)
        if idle is None:
            return False
        self._counts[_EVICTED] += 1
        next(iter(idle)).evict()
        return True

    def way(self, link: int) -> int:
        """MAKE_WAY_*: whether a half-open connection of another guest may end for one of this guest."""
        own = self._held(link)
        others = any(held > own for other, held in self._by_link.items() if other != link)
        return MAKE_WAY_ANY if others else MAKE_WAY_OWN

    def _held(self, link: int) -> int:
        return self._by_link.get(link, 0)
