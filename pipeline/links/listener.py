"""Where guests arrive: one small interface for opening links, whatever their protocol.

A listener owns the sockets on which guests of its protocol arrive. It makes a Link of each guest as
soon as the guest is ready for frames: when its connection is accepted, after the first datagram (vfkit) or
after a handshake (vpnkit). It lives in the worker that owns the links, never blocks, and reports to an Owner.

::

    made (sockets only) --open()--> waiting --a guest--> Owner.attach(guest)
                                       ^                        |
                                       +------- on_left() ------+     unless it serves one guest only
"""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from pipeline.ipc import events as ev
from pipeline.links.base import Link, SlotPool
from pipeline.wire.framing import Framing

READABLE: Final = ev.READ


class Poller(Protocol):
    """What a listener needs of its worker's loop (pipeline.stages.worker.Worker has it)."""

    def register(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) whenever fd is ready."""

    def unregister(self, fd: int) -> None:
        """Forget fd, which is still open."""


class Room(NamedTuple):
    """What a new link is given: slots to read into, and the longest packet of the network, bytes."""

    pool: SlotPool
    slots: list[memoryview]
    mtu: int


class Guest(NamedTuple):
    """A link ready for frames. framing None: each packet is a frame. peer is for the log ("@": no name).

    identity: who opened it (pipeline.system.peer), "" if unknown. Links with the same one are one guest's.
    """

    link: Link
    framing: Framing | None
    protocol: str
    peer: str
    identity: str = ""


class Owner(Protocol):
    """The keeper of the links."""

    def attach(self, guest: Guest, listener: "Listener") -> None:
        """A guest arrived. Its link is the owner's, which calls listener.on_left(link) when it is over."""

    def hang_up(self, link: Link, text: str) -> None:
        """The guest of this link is known to be gone: end the link as if the guest had closed it."""

    def refuse(self, listener: "Listener", text: str, reason: str) -> None:
        """A client was refused before it was a guest. reason is the name of a counter, or empty."""

    def fail(self, listener: "Listener", text: str) -> None:
        """No further guest can arrive through this listener."""


class Listener(ABC):
    """Where guests of one protocol arrive."""

    protocol: str = ""
    """Its name: "qemu", "bess", ..."""

    @abstractmethod
    def open(self, poller: Poller, room: Room, owner: Owner) -> None:
        """Begin to accept guests. Called once, in the worker that owns the links."""

    def on_left(self, link: Link) -> None:  # noqa: B027  most have nothing to do
        """A guest that arrived here is gone, and its link is closed."""

    def deadline(self) -> float:
        """When on_timer() has something to do; inf when never."""
        return float("inf")

    def on_timer(self, now: float) -> None:  # noqa: B027
        """What is due."""

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
