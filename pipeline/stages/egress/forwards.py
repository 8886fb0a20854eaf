"""Forwarded UDP ports in the egress worker: host clients, each a flow towards the same guest address.

Demux counts the time of these flows too, but their numbers come from here. A client is a host address
and the address of ours that it speaks to: on a wildcard one client may use several, and each of its flows is
answered from its own.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from pipeline.counters import INDEX
from pipeline.host import udp as host_udp
from pipeline.host import udp_local
from pipeline.host.filler import SlotFiller
from pipeline.host.udp import MAX_DATAGRAM
from pipeline.ipc import events as ev
from pipeline.records import descriptor as d
from pipeline.stages.worker import Worker

READS_A_PORT: Final = 16
"""Datagrams taken from one port in a step."""

_EVENTS: Final = ev.READ | ev.EDGE
_NOT_OURS: Final = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH})
"""What a system says to an answer from an address that the host has not any more."""
_TO_HOST: Final = INDEX["egress_datagrams_to_host"]
_FROM_HOST: Final = INDEX["egress_datagrams_from_host"]
_SEND_FAILED: Final = INDEX["egress_datagram_dropped_send_failed"]
_SOCKET_FULL: Final = INDEX["egress_datagram_dropped_socket_full"]
_NO_SOCKET: Final = INDEX["egress_datagram_dropped_no_socket"]
_TOO_MANY_CLIENTS: Final = INDEX["egress_datagram_dropped_too_many_clients"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]


class UdpForward:
    """A forwarded host port."""

    __slots__ = ("addr", "clients", "key", "port", "sock", "tells_local")

    def __init__(self, key: str, sock: socket.socket, addr: int, port: int, *, tells_local: bool) -> None:
        """tells_local: the socket has several addresses, and says of each datagram to which it came."""
        self.key = key
        self.sock = sock
        self.addr = addr
        self.port = port
        self.tells_local = tells_local
        self.clients: dict[object, int] = {}
        """Flow numbers, by address and control messages of the answers."""


class Client:
    """One host client of a forward."""

    __slots__ = ("address", "control", "forward", "key")

    def __init__(self, forward: UdpForward, address: Any, control: Any, key: object) -> None:
        self.forward = forward
        self.key = key
        self.address: Any = address
        self.control: Any = control
        """What makes its answers come from the address that it spoke to; empty where there is one only."""


class UdpForwards:
    """All forwarded UDP ports of one egress worker."""

    def __init__(
        self,
        worker: Worker,
        filler: SlotFiller,
        sender: host_udp.Sender,
        ready: dict[object, None],
        next_number: Callable[[], int],
        max_clients: int,
    ) -> None:
        """ready: where sockets with something to read are noted. max_clients: of one port."""
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.filler = filler
        self.sender = sender
        self.ready = ready
        self.next_number = next_number
        self.max_clients = max_clients
        self.demux_out = worker.ports.rings_out["demux"]
        self.forwards: dict[str, UdpForward] = {}
        self.by_number: dict[int, Client] = {}

    # --- guest -> host ------------------------------------------------------------------

    def to_host(self, number: int, pieces: Sequence[memoryview], size: int) -> None:
        """Send answers of the guest, all of size bytes but for a shorter last, to the client of a flow."""
        client = self.by_number.get(number)
        if client is None:
            self.counts[_NO_SOCKET] += len(pieces)
            return
        sent = failed = 0
        try:
            sent = self._send(client, pieces, size)
        except OSError as error:
            sent = _sent(error)
            if client.control and error.errno in _NOT_OURS:
                client.control = ()
                try:
                    sent += self._send(client, pieces[sent:], size)
                except OSError as again:
                    sent += _sent(again)
                    failed = len(pieces) - sent
            else:
                failed = len(pieces) - sent
        self.counts[_TO_HOST] += sent
        self.counts[_SEND_FAILED] += failed
        self.counts[_SOCKET_FULL] += len(pieces) - sent - failed

    def _send(self, client: Client, pieces: Sequence[memoryview], size: int) -> int:
        if len(pieces) == 1 and not client.control:
            try:
                client.forward.sock.sendto(pieces[0], client.address)
            except BlockingIOError:
                return 0
            return 1
        return self.sender.send(client.forward.sock, pieces, size, client.address, client.control)

    # --- host -> guest ------------------------------------------------------------------

    def read(self, forward: UdpForward) -> tuple[int, bool]:
        """Take datagrams from a port: how many, and whether there may be more."""
        filler = self.filler
        sock = forward.sock
        for count in range(READS_A_PORT):
            if not filler.place(MAX_DATAGRAM):
                self.counts[_PAUSED] += 1
                return count, True
            slot, off = filler.slot, filler.off
            view = self.slots[slot][off : off + MAX_DATAGRAM]
            control: Any = ()
            try:
                if forward.tells_local:
                    length, address, control = udp_local.receive(sock, view)
                else:
                    length, address = sock.recvfrom_into(view)
            except BlockingIOError:
                return count, False
            except OSError:
                # An ICMP error for a datagram sent to a client that is gone; the port goes on.
                self.counts[_SEND_FAILED] += 1
                continue
            number = self._flow_of(forward, address, control)
            if not number:
                continue
            filler.commit(length)
            self.counts[_FROM_HOST] += 1
            self.demux_out.push(
                d.record(
                    d.UDP_DATA,
                    flow=number,
                    slot=slot,
                    off=off,
                    length=length,
                    gso_size=length,
                    guest_addr=forward.addr,
                    ports=forward.port << 16,
                    aux=self.worker.index,
                )
            )
        return READS_A_PORT, True

    def _flow_of(self, forward: UdpForward, address: Any, control: Any) -> int:
        """The number of a client's flow; 0 if there may be no more clients."""
        key = (address, control)
        number = forward.clients.get(key, 0)
        if not number:
            if len(forward.clients) >= self.max_clients:
                self.counts[_TOO_MANY_CLIENTS] += 1
                return 0
            number = self.next_number()
            forward.clients[key] = number
            self.by_number[number] = Client(forward, address, control, key)
        return number

    # --- ends ---------------------------------------------------------------------------

    def add(self, key: str, sock: socket.socket, addr: int, port: int) -> None:
        """Serve a bound socket: its datagrams go to addr:port in the guest's network."""
        sock.setblocking(False)
        forward = UdpForward(key, sock, addr, port, tells_local=udp_local.is_told(sock))
        self.forwards[key] = forward
        self.worker.register(sock.fileno(), _EVENTS, lambda _events: self.ready.__setitem__(forward, None))

    def close(self, number: int) -> None:
        """A client's flow is over."""
        client = self.by_number.pop(number, None)
        if client is not None:
            del client.forward.clients[client.key]

    def remove(self, key: str) -> list[int]:
        """Stop serving a port; the flows that ended with it."""
        forward = self.forwards.pop(key, None)
        if forward is None:
            return []
        numbers = list(forward.clients.values())
        for number in numbers:
            self.by_number.pop(number, None)
        forward.clients.clear()
        self.ready.pop(forward, None)
        self.worker.unregister(forward.sock.fileno())
        forward.sock.close()
        return numbers


def _sent(error: OSError) -> int:
    """How many datagrams of a run were sent before an error."""
    return error.sent if isinstance(error, host_udp.SendError) else 0
