"""What the neighbour table asks its owner to do: send requests for addresses, and report changes."""

from typing import NamedTuple, Protocol

from pipeline.wire import ethernet


class Waiter(Protocol):
    """Something for a guest that waits until the guest's MAC is known."""

    def on_resolved(self, link: int) -> None:
        """The guest answered; it is on ``link``."""
        ...

    def on_lost(self) -> None:
        """No guest has the address."""
        ...


class Request(NamedTuple):
    """Ask for addr, by ARP or neighbour discovery: all stations (link -1), or one station on its link."""

    addr: int
    mac: bytes = ethernet.BROADCAST
    link: int = -1


class Learned(NamedTuple):
    """The address is new, or has moved. It is at (mac, link) now. waiting: the waiters of resolve().

    announce: it moved after a claim by ARP or neighbour discovery that did not reach the other guests.
    """

    addr: int
    mac: bytes
    link: int
    waiting: tuple[Waiter, ...] = ()
    announce: bool = False


class Changed(NamedTuple):
    """The address has another MAC on the same link; with ``newest_wins`` perhaps another link too.

    A guest can cause one of these with every packet.
    """

    addr: int
    mac: bytes
    link: int


class Lost(NamedTuple):
    """No station has the address, or none has it any more. The waiters have failed."""

    addr: int
    waiting: tuple[Waiter, ...] = ()


class Contested(NamedTuple):
    """Another station claims addr while its owner, a guest or the gateway, seems to be alive.

    At most one of these comes in CONTEST_INTERVAL for each address.
    """

    addr: int
    owner: bytes
    claimant: bytes
    link: int
    """The claimant's link."""


Action = Request | Learned | Changed | Lost | Contested
