"""The host's end of a connection: what an egress worker knows of it, and is told about it.

The host socket is in another process. Egress and tcp each have a number for the flow, and each forgets it
when the other says ABORT or CLOSED. After that no record about the flow is sent.
"""

from collections.abc import Mapping
from typing import Final

from pipeline.engines.flows import rss_hash
from pipeline.ipc.ring import Producer
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowKey, FlowNotice
from pipeline.records.kinds import ABORT, CLOSED
from pipeline.records.run import Run
from pipeline.records.streams import Connect, GuestAnswered, Shutdown, ToHost, Window

UNKNOWN_WINDOW: Final = 65536
"""What egress assumes a guest's window to be until a WINDOW comes."""


def flow_id(egress: int, number: int) -> int:
    """Tells a flow from all others of a tcp worker: each egress worker numbers the flows it begins."""
    return egress << 32 | number if number & FLOW_FROM_EGRESS else number


def egress_of(key: FlowKey, shards: int) -> int:
    """Which egress worker has the host socket of a guest's connection, the same for its whole life."""
    ends = Ends.of(key)
    mixed = rss_hash(ends.guest_addr, ends.guest_port, ends.remote_addr, ends.remote_port)
    # The low bits of the hash have chosen the tcp shard. Other bits lead each shard to all egress workers.
    return (mixed >> 16) % shards


class FlowNumbers:
    """Numbers for the connections that guests begin: 31 bits, never 0."""

    def __init__(self) -> None:
        self._last = 0

    def next(self, taken: Mapping[int, object]) -> int:
        """A number that is not in ``taken``."""
        while True:
            self._last = (self._last + 1) & 0x7FFFFFFF
            if self._last and self._last not in taken:
                return self._last


class HostEnd:
    """One connection as an egress worker knows it. Its methods push records to that worker."""

    def __init__(self, number: int, egress: int, ring: Producer) -> None:
        """number: of the flow, made by this worker or by egress. ring: to the egress worker ``egress``."""
        self.number = number
        self.egress = egress
        self.id = flow_id(egress, number)
        self.open = True
        """Whether egress knows the flow."""
        self._ring = ring
        self._window = UNKNOWN_WINDOW

    def connect(self, key: FlowKey, link: int, mss: int, syn_seq: int) -> None:
        """Ask for the connection to the host; the fields are those of Connect."""
        self._ring.push(Connect.pack(self.number, key, link, mss, syn_seq))

    def guest_answered(self, link: int, mss: int) -> None:
        """Report that the guest on ``link`` accepted the connection that egress dialled."""
        self._ring.push(GuestAnswered.pack(self.number, link, mss))

    def deliver(self, run: Run, skip: int, length: int) -> bool:
        """Pass on bytes of the guest, with the reference to their slot. False if egress wants none."""
        if not self.open:
            return False
        self._ring.push(ToHost.pack(self.number, run, skip, length))
        return True

    def notify_window(self, window: int) -> None:
        """Report the guest's receive window if it is a quarter less or twice as much as last reported."""
        reported = self._window
        if window * 4 < reported * 3 or window > reported * 2:
            self._window = window
            if self.open:
                self._ring.push(Window.pack(self.number, window))

    def shutdown(self) -> None:
        """Report that the guest sends no more bytes."""
        if self.open:
            self._ring.push(Shutdown.pack(self.number))

    def abort(self) -> None:
        """Report that the guest's side failed. Egress forgets the flow."""
        if self.open:
            self._ring.push(FlowNotice.pack(ABORT, self.number))
            self.open = False

    def close(self) -> None:
        """Report that both directions have ended. Egress forgets the flow when it has written what it has."""
        if self.open:
            self._ring.push(FlowNotice.pack(CLOSED, self.number))
            self.open = False

    def forget(self) -> None:
        """Egress has forgotten the flow by itself."""
        self.open = False
