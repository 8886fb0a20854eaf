"""One TCP flow of egress, its states, and how much a read for it may bring."""

from typing import Final

from pipeline.host.credit import ReadCredit
from pipeline.host.stream import HostStream
from pipeline.stages.egress.share import Share

MAX_READ: Final = 65536

Asker = tuple[int, int, int, int]
"""(guest_addr, remote_addr, ports, sequence number of the SYN) of a connection that a guest asked for."""


class Flow:
    """One TCP flow and its host socket.

    ========== ====================================================================
    state      meaning
    ========== ====================================================================
    CONNECTING host connection under way (CONNECT came, neither result sent)
    DIALLING   accepted from the host; the guest has not answered yet, nothing is read
    OPEN       both sides stand
    CLOSING    the guest's connection is over; queued bytes still go to the host
    DEAD       forgotten here; left in no table
    ========== ====================================================================
    """

    __slots__ = (
        "asker", "chunk", "credit", "dials", "guest", "hung_up", "key",
        "number", "read_finished", "shard", "share", "state", "stream",
    )  # fmt: skip

    def __init__(
        self, key: int, number: int, shard: int, stream: HostStream, state: str, share: Share
    ) -> None:
        self.share = share
        share.flows += 1
        self.key = key
        self.number = number
        self.shard = shard
        self.stream = stream
        self.state = state
        self.chunk = MAX_READ
        self.asker: Asker = (0, 0, 0, 0)
        self.guest = (0, 0)
        self.credit = ReadCredit()
        self.dials = 0
        self.read_finished = False
        self.hung_up = False
        """The host is gone in both directions, in order: nobody will read what the guest sends."""

    @property
    def link(self) -> int:
        """Its guest's; 0 while the guest is not known."""
        return self.share.link

    def join(self, share: Share) -> None:
        """The guest is known now: count for its share."""
        self.share.flows -= 1
        self.share = share
        share.flows += 1


def read_chunk(mss: int) -> int:
    """How much one read may bring: as many whole segments of mss bytes as fit into 64 KiB."""
    if not 0 < mss < MAX_READ:
        return MAX_READ
    return MAX_READ // mss * mss
