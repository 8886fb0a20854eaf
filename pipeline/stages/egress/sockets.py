"""How many host sockets the guests' flows may have, and which flow makes room for another.

A flow costs a descriptor, and guests decide how many flows there are. They may not use up the reserve:
connections of forwarded ports need it, and so do guest links in a process that has ingress too.

At the limit, the first of these flows that there is makes room for a new one:

1. An orphan: a connection of a guest whose link is gone. The one that is orphaned for longest.
2. An idle flow that costs its guest little: a UDP flow or a ping, whose next packet opens a new socket, or a
   connection whose host has not answered, for which the guest sends its SYN again. It is the one without a
   packet for longest, of the guest with most sockets of all kinds. So a guest that opens many pays for them
   itself. An asker never takes a socket from a guest that has no more than it has itself.
3. A half-open connection, whose guest has not completed its handshake. Only tcp knows these, so egress asks
   it (MAKE_WAY_*). For datagrams this comes last.
4. An established connection, if the asker has fewer sockets than its share and the other guest has more. The
   share is an equal part of the limit for each guest with sockets. The guest with most sockets loses the
   connection that carried no bytes for longest. Both of its ends are reset.
"""

import errno
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from typing import Final

from pipeline.counters import INDEX
from pipeline.ipc.ring import Producer
from pipeline.records.streams import MAKE_WAY_ANY, MAKE_WAY_OWN, SocketsUsedUp
from pipeline.stages.flow_reports import TOO_MANY_SOCKETS
from pipeline.stages.worker import Worker
from pipeline.system import descriptor_limit
from pipeline.system.headroom import Headroom

RESERVE: Final = 64
"""Descriptors that flows of guests leave free, beside those for links."""
USED_AGAIN_S: Final = 1.0
"""Seconds. Packets of a flow that are closer together do not renew it, so they cost nothing."""
CANDIDATES: Final = 32
"""Connections that one look finds. With a look for each, a guest could make another one's loss costly."""
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""The errnos of a system that has no descriptor, although the limit is not reached."""

_TOO_MANY: Final = INDEX[TOO_MANY_SOCKETS]
_NO_MEMORY: Final = INDEX["egress_flow_refused_no_memory"]
_EVICTED: Final = INDEX["egress_flow_evicted_too_many_sockets"]
_GUEST_GONE: Final = INDEX["egress_flow_evicted_guest_gone"]
_OVER_SHARE: Final = INDEX["egress_flow_evicted_over_share"]


class GuestSocket:
    """A host socket that serves a guest's flow, or several. Its owner reports to SocketBound."""

    def __init__(self, guest: int) -> None:
        self.guest = guest
        """The guest's number; 0 while the guest is not known."""
        self.used_at = 0.0
        """When it last carried bytes. Only connections keep it; others report used()."""
        self.silent_since = 0.0
        """What used_at was at the last look for silent ones."""

    def evict(self) -> None:
        """Close the socket, since another flow needs its descriptor. Reports closed() to SocketBound."""
        raise NotImplementedError


class _Account:
    """The sockets of one guest."""

    def __init__(self) -> None:
        self.idle: OrderedDict[GuestSocket, None] = OrderedDict()
        """What may be closed for any other flow, without a packet for longest first."""
        self.kept: dict[GuestSocket, None] = {}
        """Established connections, and those that egress dials."""
        self._silent: list[GuestSocket] = []
        """Some of kept, the one that is silent for longest last."""

    def __len__(self) -> int:
        return len(self.idle) + len(self.kept)

    def longest_silent(self) -> GuestSocket | None:
        """The established connection that carried no bytes for longest; None if there is none.

        A look at all of them finds CANDIDATES. Later calls use these up, unless they carried bytes since.
        """
        while self._silent:
            sock = self._silent.pop()
            if sock in self.kept and sock.used_at == sock.silent_since:
                return sock
        found = nsmallest(CANDIDATES, self.kept, key=_used_at)
        for sock in found:
            sock.silent_since = sock.used_at
        self._silent = found[:0:-1]
        return found[0] if found else None


class SocketBound:
    """Counts the sockets of guests, and closes some when they reach the limit of this process."""

    def __init__(self, worker: Worker, tcp_out: Iterable[Producer]) -> None:
        """tcp_out: the rings to all tcp workers."""
        soft = descriptor_limit.soft()
        self._counts = worker.counts
        self._tcp_out = list(tcp_out)
        reserve = RESERVE + descriptor_limit.links()
        self.limit = max(soft - reserve, 1) if soft >= 0 else 1 << 30
        self._open = 0
        self._headroom = Headroom()
        self._accounts: dict[int, _Account] = {}
        """By the guest's number. A guest without sockets has none."""
        self._links: dict[int, int] = {}
        """The number of the guest that opened each link."""
        self._orphans: dict[GuestSocket, None] = {}
        """Connections whose guests' links are gone, those that are orphaned for longest first."""

    def __len__(self) -> int:
        return self._open

    @property
    def evictable(self) -> int:
        """Sockets that may be closed for any other flow."""
        return sum(len(account.idle) for account in self._accounts.values())

    def sums(self) -> dict[int, int]:
        """How many sockets each guest has, by its number."""
        return {guest: len(account) for guest, account in self._accounts.items()}

    # --- guests -----------------------------------------------------------------------------

    def link_up(self, link: int, guest: int) -> None:
        """The guest has opened a link."""
        self._links[link] = guest

    def link_down(self, link: int) -> None:
        """A link is gone."""
        self._links.pop(link, None)

    def keep_links(self, up: Mapping[int, int]) -> None:
        """Of the links that are known, only these are up."""
        self._links = {link: guest for link, guest in self._links.items() if link in up}

    def guest_of(self, link: int) -> int:
        """The number of the guest that opened a link. An unknown link is a guest of its own."""
        return self._links.get(link, link)

    def is_here(self, guest: int) -> bool:
        """Whether the guest with this number has a link."""
        return guest in self._links.values()

    # --- what owners of sockets report ------------------------------------------------------

    def opened(self, sock: GuestSocket, *, evictable: bool = True) -> None:
        """A socket is open. evictable: it may be closed for any other flow."""
        self._open += 1
        account = self._account(sock.guest)
        if evictable:
            account.idle[sock] = None
        else:
            account.kept[sock] = None

    def used(self, sock: GuestSocket) -> None:
        """A packet of an evictable socket went either way."""
        self._accounts[sock.guest].idle.move_to_end(sock)

    def keep(self, sock: GuestSocket) -> None:
        """The connection of the socket is established. Only a guest below its share may need it."""
        account = self._accounts[sock.guest]
        del account.idle[sock]
        account.kept[sock] = None

    def orphaned(self, sock: GuestSocket) -> None:
        """The link of the connection's guest is gone. It counts for no guest until moved()."""
        self._forget(sock)
        self._orphans[sock] = None

    def moved(self, sock: GuestSocket, guest: int) -> None:
        """The guest of an established connection is known now, or is back."""
        self._forget(sock)
        sock.guest = guest
        self._account(guest).kept[sock] = None

    def adopt(self, sock: GuestSocket, link: int) -> None:
        """An evictable socket is used by the guest on this link, which may be back with another number."""
        guest = self.guest_of(link)
        if guest != sock.guest:
            self._forget(sock)
            sock.guest = guest
            self._account(guest).idle[sock] = None

    def closed(self, sock: GuestSocket) -> None:
        """The socket is closed."""
        self._forget(sock)
        self._open -= 1

    def _account(self, guest: int) -> _Account:
        account = self._accounts.get(guest)
        if account is None:
            account = self._accounts[guest] = _Account()
        return account

    def _forget(self, sock: GuestSocket) -> None:
        if sock in self._orphans:
            del self._orphans[sock]
            return
        account = self._accounts[sock.guest]
        account.idle.pop(sock, None)
        account.kept.pop(sock, None)
        if not account:
            del self._accounts[sock.guest]

    # --- the bound --------------------------------------------------------------------------

    def refuses(self, guest: int, *, insists: bool = False) -> bool:
        """Whether one more socket for the guest is too many, and none could be closed for it.

        insists: as for make_room(). If memory is short, one that is closed makes room too.
        """
        if self._headroom.is_short(self._open) and not self.make_room(guest, insists=insists):
            self._counts[_NO_MEMORY] += 1
            return True
        if self._open < self.limit or self.make_room(guest, insists=insists):
            return False
        self._counts[_TOO_MANY] += 1
        return True

    def datagram_socket(self, guest: int, make: Callable[[], socket.socket]) -> socket.socket | None:
        """make() if one more socket is allowed, else None, which refuses() has counted. Raises OSError.

        Without a descriptor tcp is told. It may end a half-open connection for the next packet. Packets that
        wait would need memory, so an established connection of a guest above its share is closed before.
        """
        if self.refuses(guest, insists=True):
            self._notify_used_up(guest)
            return None
        try:
            try:
                return make()
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR or not self.make_room(guest, insists=True):
                    raise
            return make()
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                self._notify_used_up(guest)
            raise

    def _notify_used_up(self, guest: int) -> None:
        record = SocketsUsedUp.pack(guest, self.way(guest))
        for ring in self._tcp_out:
            ring.push(record)

    def make_room(self, guest: int, *, insists: bool = False) -> bool:
        """Close a socket for one of the guest. False if that would be unfair, or none may be closed.

        insists: an established connection may be closed too.
        """
        sock, cause = next(iter(self._orphans), None), _GUEST_GONE
        if sock is None:
            sock, cause = self._idle_one(guest), _EVICTED
        if sock is None and insists:
            sock, cause = self._over_share(guest), _OVER_SHARE
        if sock is None:
            return False
        self._counts[cause] += 1
        sock.evict()
        return True

    def _idle_one(self, guest: int) -> GuestSocket | None:
        """An idle flow of the guest with most sockets."""
        payer, most = guest, self._held(guest)
        for other, account in self._accounts.items():
            if other != guest and account.idle and len(account) > most:
                payer, most = other, len(account)
        account = self._accounts.get(payer, _NOTHING)
        return next(iter(account.idle), None)

    def _over_share(self, guest: int) -> GuestSocket | None:
        """An established connection of the guest with most sockets, if it is above its share."""
        # Sockets of unknown guests (0) are those of host clients, whose guest has not answered.
        others = [account for other, account in self._accounts.items() if other not in (0, guest)]
        share = self.limit // (len(others) + 1)
        if not others or self._held(guest) >= share:
            return None
        most = max(others, key=len)
        return most.longest_silent() if len(most) > share else None

    def way(self, guest: int) -> int:
        """MAKE_WAY_*: whether a half-open connection of another guest may end for one of this guest."""
        own = self._held(guest)
        others = any(len(account) > own for other, account in self._accounts.items() if other != guest)
        return MAKE_WAY_ANY if others else MAKE_WAY_OWN

    def _held(self, guest: int) -> int:
        return len(self._accounts.get(guest, _NOTHING))


_NOTHING: Final = _Account()


def _used_at(sock: GuestSocket) -> float:
    return sock.used_at
