"""Forwarded UDP ports in the egress worker: each host client is a flow to the same guest address.

Egress numbers these flows; demux ends them when they are idle. A client is a remote address together with
the local address to which it sends. On a wildcard socket, one host may send to several local addresses. Each
of them is a flow of its own, and answers leave from that local address.
"""

import errno
import socket
from collections.abc import Sequence
from time import monotonic
from typing import Final

from pipeline.counters import INDEX
from pipeline.host import udp as host_udp
from pipeline.host import udp_local
from pipeline.host.udp import MAX_DATAGRAM
from pipeline.ipc import events as ev
from pipeline.ipc.flow_rows import GATEWAY, IN, FlowRow
from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends, FlowKey, flow_key
from pipeline.records.run import Run
from pipeline.records.udp import UdpData
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.traffic import Traffic
from pipeline.stages.egress.udp.flows import (
    NO_SOCKET,
    SEND_FAILED,
    SOCKET_FULL,
    TO_HOST,
    send_pieces,
    sent_before,
    why_ended,
)

READS_A_PORT: Final = 16
"""Datagrams to take from one port in a step."""

_EVENTS: Final = ev.READ | ev.EDGE
_NOT_OURS: Final = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH})
"""The errnos of an answer from a local address that the host does not have any more."""
_FROM_HOST: Final = INDEX["egress_datagrams_from_host"]
_TOO_MANY_CLIENTS: Final = INDEX["egress_datagram_dropped_too_many_clients"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]

Place = tuple[udp_local.Address, udp_local.Control]
"""A client's address, and the control messages that make answers leave from the right local address."""


class UdpForward:
    """A forwarded host port."""

    def __init__(self, forwards: "UdpForwards", name: str, sock: socket.socket, key: FlowKey) -> None:
        """key: of its flows. Only the guest's end of it is set."""
        self.name = name
        self.sock = sock
        self.key = key
        self.tells_local = udp_local.ask_if_wildcard(sock)
        """Whether the socket has several local addresses, and reports to which one each datagram came."""
        self.clients: dict[Place, int] = {}
        """Flow numbers."""
        self._forwards = forwards

    def on_event(self, _events: int) -> None:
        """The poller reports datagrams."""
        self._forwards.ready[self] = None

    def receive(self, view: memoryview) -> tuple[int, Place]:
        """Read one datagram: its length, and the client. Raises OSError."""
        if self.tells_local:
            length, address, control = udp_local.receive(self.sock, view)
            return length, (address, control)
        length, address = self.sock.recvfrom_into(view)
        return length, (address, ())


class Client(Traffic):
    """One host client of a forward."""

    def __init__(self, forward: UdpForward, number: int, place: Place, now: float) -> None:
        super().__init__(now)
        self.number = number
        self.forward = forward
        self.place = place
        self.answers_from_own = bool(place[1])
        """Whether answers leave from the local address to which it sent. Else the system chooses one."""

    def row(self, now: float) -> FlowRow:
        """See Traffic. Egress does not know the number of the guest."""
        address = self.place[0]
        row = self.counted(self.number, "udp", IN, 0, Ends.of(self.forward.key), now)
        return row._replace(address=str(address[0]), port=int(address[1]))


class UdpForwards:
    """All forwarded UDP ports of one egress worker."""

    def __init__(self, context: EgressContext, sender: host_udp.Sender, max_clients: int) -> None:
        """max_clients: the most host clients of one port."""
        self._worker = context.worker
        self._counts = context.counts
        self._slots = context.slots
        self._filler = context.filler
        self._numbers = context.numbers
        self._notices = context.notices
        self._reports = context.reports
        self._demux_out = context.demux_out
        self._sender = sender
        self._max_clients = max_clients
        self._forwards: dict[str, UdpForward] = {}
        self.clients_by_id: dict[int, Client] = {}
        """By flow number."""
        self.ready: dict[UdpForward, None] = {}
        """Ports with something to read."""
        self.more = False
        """Whether a port had more than its share of the last step."""

    def set_max_clients(self, max_clients: int) -> None:
        """Change the most host clients of one port. Those that are there stay."""
        self._max_clients = max_clients

    # --- guest -> host ------------------------------------------------------------------

    def to_host(self, number: int, pieces: Sequence[memoryview], size: int, now: float) -> None:
        """Send answers of the guest to the client of a flow. All have size bytes; the last may be shorter."""
        client = self.clients_by_id.get(number)
        if client is None:
            self._counts[NO_SOCKET] += len(pieces)
            return
        client.from_guest(len(pieces), (len(pieces) - 1) * size + len(pieces[-1]), now)
        sent = failed = 0
        try:
            sent = self._send(client, pieces, size)
        except OSError as error:
            sent = sent_before(error)
            if client.answers_from_own and error.errno in _NOT_OURS:
                client.answers_from_own = False
                try:
                    sent += self._send(client, pieces[sent:], size)
                except OSError as again:
                    sent += sent_before(again)
                    failed = len(pieces) - sent
            else:
                failed = len(pieces) - sent
        self._counts[TO_HOST] += sent
        self._counts[SEND_FAILED] += failed
        self._counts[SOCKET_FULL] += len(pieces) - sent - failed

    def _send(self, client: Client, pieces: Sequence[memoryview], size: int) -> int:
        address, control = client.place
        if not client.answers_from_own:
            control = ()
        return send_pieces(self._sender, client.forward.sock, pieces, size, address, control)

    # --- host -> guest ------------------------------------------------------------------

    def read_ready(self, now: float) -> int:
        """Read datagrams from ports that have some, a bounded number of each. Returns how many."""
        self.more = False
        count = 0
        for forward in list(self.ready):
            got, keep = self._read(forward, now)
            count += got
            if not keep:
                self.ready.pop(forward, None)
        return count

    def _read(self, forward: UdpForward, now: float) -> tuple[int, bool]:
        """Read datagrams of a port. Returns how many, and whether there may be more."""
        filler = self._filler
        for count in range(READS_A_PORT):
            if not filler.place(MAX_DATAGRAM):
                # The next slot that is returned wakes the worker.
                self._counts[_PAUSED] += 1
                return count, True
            slot, off = filler.slot, filler.off
            try:
                length, place = forward.receive(self._slots[slot][off : off + MAX_DATAGRAM])
            except BlockingIOError:
                return count, False
            except OSError:
                # An ICMP error for a datagram sent to a client that is gone. The port goes on.
                self._counts[SEND_FAILED] += 1
                continue
            number = self._flow_of(forward, place, now)
            if number:
                self.clients_by_id[number].to_guest(1, length, now)
                filler.commit(length)
                self._counts[_FROM_HOST] += 1
                run = Run(slot, off, length, 0, length)
                self._demux_out.push(UdpData.pack(number, forward.key, run, link=0))
        self.more = True
        return READS_A_PORT, True

    def _flow_of(self, forward: UdpForward, place: Place, now: float) -> int:
        """The number of a client's flow; 0 if the port has too many clients."""
        number = forward.clients.get(place, 0)
        if not number:
            if len(forward.clients) >= self._max_clients:
                self._counts[_TOO_MANY_CLIENTS] += 1
                return 0
            number = self._numbers.next()
            forward.clients[place] = number
            client = self.clients_by_id[number] = Client(forward, number, place, now)
            if self._reports.wants_opened():
                self._reports.opened(client.row(now))
        return number

    # --- begin and end ------------------------------------------------------------------

    def add(self, name: str, sock: socket.socket, guest_addr: Addr, guest_port: int) -> None:
        """Serve a bound socket: its datagrams go to that port of a guest."""
        sock.setblocking(False)
        forward = UdpForward(self, name, sock, flow_key(guest_addr, guest_port, 0, 0))
        self._forwards[name] = forward
        self._worker.register(sock.fileno(), _EVENTS, forward.on_event)

    def close(self, number: int) -> None:
        """Demux has ended a client's flow."""
        client = self.clients_by_id.get(number)
        if client is not None:
            self._end(client, "")

    def _end(self, client: Client, reason: str) -> None:
        """reason: see docs/flows.md; "" if demux ended the flow, which does not say why."""
        del self.clients_by_id[client.number]
        client.forward.clients.pop(client.place, None)
        if self._reports.wants_ended():
            row = client.row(monotonic())._replace(state="closed")
            self._reports.closed(row, GATEWAY, reason or why_ended(row, here=True))

    def end(self, number: int) -> bool:
        """An operator ends a client's flow. False if there is none with this number."""
        client = self.clients_by_id.get(number)
        if client is None:
            return False
        self._end(client, "deleted")
        self._notices.notify_udp_closed(number)
        return True

    def remove(self, name: str) -> None:
        """Stop serving a port, and end its flows. An unknown name is ignored."""
        forward = self._forwards.pop(name, None)
        if forward is None:
            return
        for number in list(forward.clients.values()):
            self._end(self.clients_by_id[number], "fin")
            self._notices.notify_udp_closed(number)
        forward.clients.clear()
        self.ready.pop(forward, None)
        self._worker.unregister(forward.sock.fileno())
        forward.sock.close()

    def end_clients(self) -> None:
        """Demux has forgotten all flows."""
        for client in list(self.clients_by_id.values()):
            self._end(client, "")

    def close_all(self) -> None:
        """Stop serving all ports."""
        for name in list(self._forwards):
            self.remove(name)
