"""UDP sockets with ``udp-nat: full-cone``: one for each port of a guest, through which any host may answer.

RFC 4787 calls this endpoint-independent mapping (REQ-1) and filtering (section 5). All flows that a guest
has from one of its ports share a *cone*, a socket that is not connected. So every host sees the same address
of the guest. A *stranger* is a remote to which the guest has not sent anything. Its datagrams reach the guest
with their true source. TFTP, SIP and STUN need that.

- A cone lives as long as one of its flows. Demux bounds and ends flows as always. Strangers' datagrams do not
  renew a flow.
- A stranger must have an address that the guest could reach, by the NAT table and by the egress policy.
- An ICMP error is passed on and ends nothing (RFC 5508 REQ-8): a peer may open its own side later.
- The system chooses the port. A guest must not be able to take a certain port of the host.
"""

import errno
import socket
from collections.abc import Sequence
from typing import Final

from pipeline.counters import INDEX
from pipeline.host import udp_errors
from pipeline.ipc import events as ev
from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends, FlowKey, flow_key
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.udp.flows import (
    NO_NUMBER,
    SEND_FAILED,
    SOCKET_FULL,
    TO_HOST,
    DatagramFlow,
    DatagramSocket,
    DatagramSockets,
    DatagramTable,
    open_socket,
    sent_before,
)
from pipeline.system import inet
from pipeline.system.outbound import Outbound
from pipeline.wire import ip

ERRORS_A_TIME: Final = 16
TRIES: Final = 3
"""How often egress sends a datagram when errors about earlier ones come in between."""

_FOREIGN: Final = INDEX["egress_datagram_dropped_foreign_source"]
_POLICY: Final = INDEX["egress_datagram_dropped_policy"]

Place = tuple[Addr, int, bool, bool]
"""Address and port of a guest, whether the socket is bound to the outbound address or interface, and whether
it is for IPv4 hosts. A guest reaches those under 64:ff9b::/96 from its IPv6 address too."""


class Cone(DatagramSocket):
    """The socket of one port of a guest."""

    def __init__(
        self,
        context: EgressContext,
        table: DatagramTable,
        sock: socket.socket,
        guest: int,
        now: float,
        place: Place,
        cones: "Cones",
    ) -> None:
        super().__init__(context, table, sock, guest, now)
        self._guest_addr, self._guest_port, _, _ = place
        self._place = place
        self._cones = cones
        self._by_source: dict[int, DatagramFlow] = {}
        """By the source of answers. If two addresses of the NAT table mean one host, it is the later flow."""
        self._has_errors = False

    # --- guest -> host ------------------------------------------------------------------

    def open_flow(self, number: int, key: FlowKey, host_addr: Addr, now: float) -> DatagramFlow:
        """One more remote to which the guest sends from this port."""
        port = Ends.of(key).remote_port
        address = ip.full_text(host_addr), port
        flow = DatagramFlow(self, number, key, now, host_addr << 16 | port, address)
        self._by_source[flow.source] = flow
        self.add(flow)
        return flow

    def send(self, flow: DatagramFlow, pieces: Sequence[memoryview], size: int) -> None:
        """Send datagrams. An error is mostly about an earlier datagram of any flow, so these are retried."""
        sent = 0
        lost = SEND_FAILED
        for _ in range(TRIES):
            try:
                sent += self._send(flow, pieces[sent:], size)
                lost = SOCKET_FULL
                break
            except OSError as error:
                sent += sent_before(error)
                if not self._take_errors():
                    self.context.notices.notify_datagram_failed(flow.key, error.errno or errno.EIO)
                    break
        counts = self.context.counts
        counts[TO_HOST] += sent
        counts[lost] += len(pieces) - sent

    # --- host -> guest ------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        """The poller has events of the socket."""
        if events & ev.ERROR:
            self._has_errors = True
        self.readable()

    def before_read(self) -> None:
        """Take the errors that the poller reported."""
        if self._has_errors:
            self._has_errors = False
            self._take_errors()

    def receive(self, view: memoryview) -> tuple[int, int]:
        """Read one datagram."""
        length, address = self.sock.recvfrom_into(view)
        return length, ip.parse(str(address[0])) << 16 | int(address[1])

    def flow_from(self, source: int, count: int) -> DatagramFlow | None:
        """The flow of a remote. For a stranger that the guest could reach, a flow unknown to demux."""
        flow = self._by_source.get(source)
        return flow if flow is not None else self._from_stranger(source, count)

    def _from_stranger(self, source: int, count: int) -> DatagramFlow | None:
        context = self.context
        host_addr, port = source >> 16, source & 0xFFFF
        remote = ip.as_seen_from(context.targets.seen_as(host_addr), self._guest_addr)
        target = context.targets.udp_target(remote, port)
        if target.service or target.refused or target.addr != host_addr or not port:
            context.counts[_FOREIGN] += count
            return None
        if context.policy.active and not context.policy.admits(self._guest_addr, remote, port, "udp"):
            context.counts[_POLICY] += count
            return None
        meter = context.policy.quotas.meter(self.guest, self._guest_addr)
        if meter is not None and meter.refusal():
            context.counts[_POLICY] += count
            return None
        key = flow_key(self._guest_addr, self._guest_port, remote, port)
        flow = DatagramFlow(self, NO_NUMBER, key, 0.0)
        flow.count_in(meter)
        return flow

    # --- errors and ends ------------------------------------------------------------------

    def on_read_error(self, error: OSError) -> bool:
        """An error about a datagram that the guest sent. The other flows go on."""
        self._take_errors()
        return True

    def _take_errors(self) -> int:
        """Tell the guest what became of its datagrams. Returns how many errors there were."""
        found, taken = udp_errors.errors(self.sock, ERRORS_A_TIME)
        for address, port, error in found:
            flow = self._by_source.get(ip.parse(address) << 16 | port)
            if flow is not None:
                self.context.notices.notify_datagram_failed(flow.key, error)
        return taken

    def remove(self, flow: DatagramFlow) -> None:
        """A flow is over. The last one closes the socket."""
        if self._by_source.get(flow.source) is flow:
            del self._by_source[flow.source]
        super().remove(flow)

    def close(self) -> None:
        """Close the socket."""
        self._cones.remove(self._place)
        super().close()


class Cones(DatagramSockets):
    """All cones of one egress worker."""

    def __init__(self, context: EgressContext, table: DatagramTable) -> None:
        self._context = context
        self._table = table
        self._cones: dict[Place, Cone] = {}

    def __len__(self) -> int:
        return len(self._cones)

    def socket_for(self, guest: int, ends: Ends, host_addr: Addr, now: float) -> DatagramSocket:
        """The cone of the guest's port. If it has an outbound, a second cone is for the host's loopback."""
        outbound = self._context.outbound
        host = ip.full_text(host_addr)
        is_bound = outbound is not None and outbound.is_for(host)
        place = (ends.guest_addr, ends.guest_port, is_bound, ip.is_ipv4(host_addr))
        cone = self._cones.get(place)
        if cone is None:
            source = _source(outbound, inet.family_of(host), is_bound=is_bound)
            sock = open_socket(self._context, guest, host, lambda made: _prepare(made, source))
            cone = Cone(self._context, self._table, sock, guest, now, place, self)
            self._cones[place] = cone
        return cone

    def remove(self, place: Place) -> None:
        """The cone of that port is closed."""
        del self._cones[place]


def _source(outbound: Outbound | None, family: int, *, is_bound: bool) -> str:
    """The address to bind a cone to; empty if the outbound has done that. is_bound: whether it is for it."""
    wildcard, loopback = ("0.0.0.0", "127.0.0.1") if family == socket.AF_INET else ("::", "::1")
    if outbound is None:
        return wildcard
    if not is_bound:
        # Only the host itself may answer what went to its loopback.
        return loopback
    # An outbound address is IPv4's.
    return "" if outbound.address and family == socket.AF_INET else wildcard


def _prepare(sock: socket.socket, source: str) -> None:
    udp_errors.watch(sock)
    if source:
        sock.bind((source, 0))
