"""The host end of a connection. Its methods send the records by which tcp controls the host socket.

The host socket belongs to an egress worker, usually in another process. Both workers know the flow by its
number. A worker forgets the number when the other one sends ABORT or CLOSED. After that neither sends records
about the flow.
"""

from collections.abc import Mapping
from typing import Final

from pipeline.engines.flows import rss_hash
from pipeline.ipc.ring import Producer
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowKey, FlowNotice
from pipeline.records.kinds import ABORT, CLOSED, ORPHANED
from pipeline.records.run import Run
from pipeline.records.streams import Connect, GuestAnswered, GuestMoved, Shutdown, ToHost, Window

UNKNOWN_WINDOW: Final = 65536
"""The guest's window that egress assumes until it gets a WINDOW record."""


def flow_id(egress: int, number: int) -> int:
    """A number for a flow that is unique in a tcp worker. Egress workers may use the same flow numbers."""
    return egress << 32 | number if number & FLOW_FROM_EGRESS else number


def egress_of(ends: Ends, shards: int) -> int:
    """The egress worker that gets the host socket of a guest's connection, for its whole life."""
    if shards == 1:
        return 0
    mixed = rss_hash(ends.guest_addr, ends.guest_port, ends.remote_addr, ends.remote_port)
    # The low bits of the hash have chosen the tcp shard. With other bits each shard uses all egress workers.
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
    """The host end of one connection. Its methods push records to the egress worker."""

    def __init__(self, number: int, egress: int, ring: Producer) -> None:
        """number: of the flow, chosen by this worker or by egress. ring: to the egress worker ``egress``."""
        self.number = number
        self.egress = egress
        self.id = flow_id(egress, number)
        self.open = True
        """Whether egress knows the flow."""
        self.insists = False
        """Whether the last connect() insisted on a socket."""
        self._ring = ring
        self._window = UNKNOWN_WINDOW

    def connect(
        self, key: FlowKey, link: int, guest: int, mss: int, syn_seq: int, *, insists: bool = False
    ) -> None:
        """Ask egress to connect to the host. The arguments are the fields of Connect."""
        self.insists = insists
        self._window = UNKNOWN_WINDOW
        self._ring.push(Connect.pack(self.number, key, link, guest, mss, syn_seq, insists))

    def guest_answered(self, key: FlowKey, guest: int, mss: int) -> None:
        """Report that the guest with this number accepted the connection that egress asked for."""
        self._ring.push(GuestAnswered.pack(self.number, key, guest, mss))

    def guest_moved(self, guest: int) -> None:
        """Report that the guest of the flow is back, with this number."""
        if self.open:
            self._ring.push(GuestMoved.pack(self.number, guest))

    def orphaned(self) -> None:
        """Report that the link of the flow's guest is gone."""
        if self.open:
            self._ring.push(FlowNotice.pack(ORPHANED, self.number))

    def deliver(self, run: Run, skip: int, length: int) -> bool:
        """Pass on bytes of the guest, with the reference to their slot. False if egress has left the flow."""
        if not self.open:
            return False
        self._ring.push(ToHost.pack(self.number, run, skip, length))
        return True

    def notify_window(self, window: int) -> None:
        """Report the guest's receive window, if it has shrunk by a quarter or doubled since the last time."""
        reported = self._window
        if window * 4 < reported * 3 or window > reported * 2:
            self._window = window
            if self.open:
                self._ring.push(Window.pack(self.number, window))

    def shutdown(self) -> None:
        """Report the guest's FIN."""
        if self.open:
            self._ring.push(Shutdown.pack(self.number))

    def abort(self) -> None:
        """Report that the guest's side failed. Egress resets the host socket and forgets the flow."""
        if self.open:
            self._ring.push(FlowNotice.pack(ABORT, self.number))
            self.open = False

    def close(self) -> None:
        """Report that both directions have ended. Egress writes what it still has, and forgets the flow."""
        if self.open:
            self._ring.push(FlowNotice.pack(CLOSED, self.number))
            self.open = False

    def forget(self) -> None:
        """Egress has already forgotten the flow."""
        self.open = False
