"""The interface of listeners. A listener accepts guests of one protocol and makes a Link for each.

It owns the sockets on which these guests arrive. It makes the link when the guest is ready for frames:
after accept(), after the first datagram (vfkit), or after a handshake (vpnkit). A listener runs in the
ingress worker, which owns the links. It never blocks, and it reports to an Owner.

::

    made (sockets only) --open()--> waiting --a guest--> Owner.attach(arrival)
                                       ^                         |
                                       +------- on_left() -------+    unless it serves one guest only
"""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from pipeline.ipc import events as ev
from pipeline.links.base import Link, SlotPool
from pipeline.links.vxlan_url import End

READABLE: Final = ev.READ
_NEVER: Final = float("inf")


class Poller(Protocol):
    """What a listener needs from its worker's loop (pipeline.stages.worker.Worker has it)."""

    def register(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) whenever fd is ready."""

    def unregister(self, fd: int) -> None:
        """Stop watching fd, which must still be open."""


class LinkResources(NamedTuple):
    """What a new link gets: the pool, the memory of its slots, and the network's MTU in bytes."""

    pool: SlotPool
    slots: list[memoryview]
    mtu: int


class GatewayAddresses(NamedTuple):
    """What is the gateway's: its MAC address, its IP addresses, and the subnet's broadcast address."""

    mac: bytes
    own: frozenset[int]
    broadcast: int


class Arrival(NamedTuple):
    """A new link that is ready for frames, and who opened it.

    peer: its name for the log, "@" for a socket without one.
    identity: the process, machine or address that opened the link (pipeline.system.peer), "" if unknown.
    Links with the same identity belong to one guest.
    """

    link: Link
    protocol: str
    peer: str
    identity: str = ""

    def opened_by(self) -> dict[str, str]:
        """The identity for a log line, if it is known. The log's rates go by it, since links come and go."""
        return {"opened_by": self.identity} if self.identity else {}


class Owner(Protocol):
    """The object that owns the links (the ingress worker's Acceptors)."""

    def attach(self, arrival: Arrival, listener: "Listener") -> None:
        """A link is ready. The owner takes it, and calls listener.on_left(link) when it has ended."""

    def hang_up(self, link: Link, text: str) -> None:
        """The listener found that a guest is gone: end its link as if the guest had closed it."""

    def wake(self, link: Link) -> None:
        """The listener polls a descriptor for a link, and the link may have something to read."""

    def mtu_changed(self, link: Link) -> None:
        """A link to other hosts can carry packets of another length than before (Link.tunnel_mtu)."""

    def refuse(self, listener: "Listener", text: str, reason: str) -> None:
        """The listener refused a client that was not a guest yet. reason: name of a counter, or empty."""

    def connect(self, listener: "Listener", sock: socket.socket) -> None:
        """Have a process with more rights connect a datagram socket to the sender of its first datagram.

        listener.on_connected() has the result.
        """

    def fail(self, listener: "Listener", text: str) -> None:
        """The listener failed. It cannot accept guests any more."""


class Listener(ABC):
    """Accepts guests of one protocol."""

    protocol: str = ""
    """The name of the protocol: "qemu", "bess", ..."""

    @abstractmethod
    def open(self, poller: Poller, resources: LinkResources, owner: Owner) -> None:
        """Begin to accept guests. Called once, in the worker that owns the links."""

    def on_left(self, link: Link) -> None:  # noqa: B027  most have nothing to do
        """A guest of this listener is gone, and its link is closed."""

    def on_connected(self, error: str) -> None:  # noqa: B027  only datagram sockets are connected
        """The socket of Owner.connect() is connected, or error says why not."""

    def set_members(self, members: Sequence[End]) -> None:  # noqa: B027  only one leads to other hosts
        """These hosts are members of the fleet now."""

    def set_places(self, macs: Mapping[bytes, str], addrs: Mapping[bytes, str]) -> None:  # noqa: B027
        """The fleet says at which hosts these MAC and packed IP addresses are; "" for none of them."""

    def deadline(self) -> float:
        """The time at which to call on_timer() next; inf for never."""
        return _NEVER

    def on_timer(self, now: float) -> None:  # noqa: B027
        """Do what is due at the time now (monotonic)."""

    @abstractmethod
    def close(self) -> None:
        """Accept no more guests and close the sockets. Links live on. May be called before open()."""


def has_peer(sock: socket.socket) -> bool:
    """Whether sock is connected."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
