"""Host sockets of the egress worker: how many there may be, who makes room, and how they are opened.

A flow costs a descriptor, and guests decide how many flows there are. What they may not use up is the
reserve: connections of forwarded ports come in with it, and guest links in a process that has ingress
too. Which flow a socket belongs to is the stage's business.

At the limit something makes room for a new flow. These can: UDP flows and pings, whose next packet opens
a new socket, and connections whose host has not answered, for which the guest sends its SYN again. The one
without a packet for longest is closed. It is one of the guest with most sockets, of all kinds, so that a
guest which opens many pays for them itself. An asker never takes from a guest that has no more than it has
itself. An open connection is never closed for another flow. Half-open ones, whose guest has not completed
its handshake, are known to tcp alone: it is told (MAKE_WAY_*) when nothing here can make room.
"""

import errno
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sized
from typing import Any, Final, Protocol

from pipeline.counters import INDEX
from pipeline.engines import nat, tally
from pipeline.host import tcp as host_tcp
from pipeline.ipc import messages
from pipeline.ipc.ring import Producer
from pipeline.records import descriptor as d
from pipeline.stages.egress.flow import Asker
from pipeline.stages.egress.guard import REFUSED, Guard
from pipeline.stages.egress.share import Shares
from pipeline.stages.worker import Worker
from pipeline.wire import ipv4

if sys.platform != "win32":
    import resource

RESERVE: Final = 64
"""Descriptors that flows of guests leave free."""
USED_AGAIN_S: Final = 1.0
"""Packets of a flow that are closer together than this (seconds) do not renew it: they cost nothing."""
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""What the system says when there is no descriptor although the bound is not reached."""

_TOO_MANY: Final = INDEX["egress_flow_refused_too_many_sockets"]
_EVICTED: Final = INDEX["egress_flow_evicted_too_many_sockets"]


class Closable(Protocol):
    """A flow with a socket that may be closed for another one."""

    @property
    def link(self) -> int: ...


class SocketBound:
    """How many sockets the flows of guests may have, by the limit of this process, and whose are closed."""

    def __init__(self, worker: Worker, shares: Shares, tcp_out: Iterable[Producer], *groups: Sized) -> None:
        """shares: count the connections of each guest. groups: what has one socket an item."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._counts = worker.counts
        self._shares = shares
        self._tcp_out = list(tcp_out)
        self._groups = groups
        self.limit = max(soft - RESERVE, 1) if soft != resource.RLIM_INFINITY else 1 << 30
        self._idle: dict[int, OrderedDict[Any, Callable[[Any], None]]] = {}
        """By link: what may be closed, without a packet for longest first, and how to."""
        self._others: dict[int, int] = {}
        """By link: sockets that are not of connections."""

    # --- what may be closed -----------------------------------------------------------------

    def opened(self, flow: Closable, close: Callable[[Any], None], *, connection: bool = False) -> None:
        """A socket that may be closed: by calling close(flow), which ends in closed(flow)."""
        self._idle.setdefault(flow.link, OrderedDict())[flow] = close
        if not connection:
            tally.add(self._others, flow.link, 1)

    def used(self, flow: Closable) -> None:
        """A packet of it went either way."""
        self._idle[flow.link].move_to_end(flow)

    def closed(self, flow: Closable, *, connection: bool = False) -> None:
        """It has no socket any more; or the connection stands, and keeps it."""
        idle = self._idle.get(flow.link)
        if idle is None or idle.pop(flow, None) is None:
            return
        if not idle:
            del self._idle[flow.link]
        if not connection:
            tally.add(self._others, flow.link, -1)

    # --- the bound --------------------------------------------------------------------------

    def refuses(self, link: int) -> bool:
        """Whether one more socket for the guest behind link is too many, and nothing was closed for it."""
        if sum(map(len, self._groups)) < self.limit or self.make_room(link):
            return False
        self._counts[_TOO_MANY] += 1
        return True

    def datagram_socket(self, link: int, make: Callable[[], socket.socket]) -> socket.socket:
        """make() if one more socket is allowed. Raises OSError.

        Without a descriptor tcp is told, which may end a half-open connection for the next packet.
        """
        try:
            if self.refuses(link):
                raise OSError(errno.EMFILE, "too many flows")
            try:
                return make()
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR or not self.make_room(link):
                    raise
            return make()
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                record = d.record(d.SOCKETS_USED_UP, link=link, length=self.way(link))
                for ring in self._tcp_out:
                    ring.push(record)
            raise

    def make_room(self, link: int) -> bool:
        """Close a socket for one of the guest behind link; False if that would be unfair, or none may be."""
        payer, most = link, self._held(link)
        for other in self._idle:
            if other != link and (held := self._held(other)) > most:
                payer, most = other, held
        idle = self._idle.get(payer)
        if idle is None:
            return False
        flow, close = next(iter(idle.items()))
        self._counts[_EVICTED] += 1
        close(flow)
        return True

    def way(self, link: int) -> int:
        """MAKE_WAY_*: whether a half-open connection of another guest may end for one of this guest."""
        own = self._held(link)
        links = {*self._shares.links(), *self._others} - {link}
        return d.MAKE_WAY_ANY if any(self._held(other) > own for other in links) else d.MAKE_WAY_OWN

    def _held(self, link: int) -> int:
        return self._shares.flows_of(link) + self._others.get(link, 0)


class Opener:
    """Opens host sockets for the connections that guests ask for."""

    def __init__(
        self,
        worker: Worker,
        targets: nat.Nat,
        guard: Guard,
        bound: SocketBound,
        hear_names: Callable[[], object],
    ) -> None:
        """hear_names: take what demux has sent about names that guests were told."""
        self._worker = worker
        self._targets = targets
        self._guard = guard
        self._bound = bound
        self._hear_names = hear_names

    def open(self, asker: Asker, link: int) -> tuple[socket.socket | None, int]:
        """As pipeline.host.tcp.connect(): the socket and 0, or None and an errno."""
        guest_addr, remote_addr, ports, _ = asker
        port = ports & 0xFFFF
        target = self._targets.tcp_target(remote_addr, port)
        if target.refused:
            self._worker.counts[INDEX[target.refused]] += 1
            return None, target.errno
        if self._guard.active and not target.service:
            # What the guest was told about names was published before its SYN was: it is in this ring.
            self._hear_names()
            if self._guard.refuses(guest_addr, remote_addr, port, "tcp"):
                return None, REFUSED
        if self._bound.refuses(link):
            return None, errno.EMFILE
        sock, error = self._try(target, asker, link)
        if error in NO_DESCRIPTOR and self._bound.make_room(link):
            sock, error = self._try(target, asker, link)
        return sock, error

    def _try(self, target: nat.Target, asker: Asker, link: int) -> tuple[socket.socket | None, int]:
        guest_addr, _, ports, _ = asker
        if target.service:
            guest = f"{ipv4.addr_text(guest_addr)}:{ports >> 16}"
            return open_service(self._worker, target.service, guest, link)
        return host_tcp.connect(ipv4.addr_text(target.addr), ports & 0xFFFF)


def open_service(worker: Worker, name: str, guest: str, link: int) -> tuple[socket.socket | None, int]:
    """Connect a guest (``address:port``, behind link) to a service, whose end goes to the supervisor.

    Returns as pipeline.host.tcp.connect(): the socket (tune() it) and 0, or None and an errno.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        return None, error.errno or errno.EMFILE
    with theirs:
        try:
            worker.send_event(messages.ServiceEvent(name, guest, link).encode(), [theirs])
        except OSError as error:
            # It would have to wait, and there is no descriptor to keep it with.
            ours.close()
            return None, error.errno or errno.EMFILE
    return ours, 0
