"""UDP half of the egress worker: one connected host socket a flow, and the sockets of forwarded UDP ports.

Flow numbers and their time-outs are demux's (pipeline.engines.udp); here is only what a
socket needs. Flows of forwarded ports are numbered here, one for each host client.
"""

import errno
import select
import socket
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import nat, refusal
from pipeline.host.filler import SlotFiller
from pipeline.shm import descriptor as d
from pipeline.shm.ring import Producer
from pipeline.stages.egress_guard import REFUSED, Guard
from pipeline.stages.worker import Worker
from pipeline.wire import ipv4

MAX_DATAGRAM: Final = 65507
READS_A_SOCKET: Final = 16
SOCKET_BUFFER_BYTES: Final = 1 << 20

_EVENTS: Final = select.EPOLLIN | select.EPOLLET
_TO_HOST: Final = INDEX["egress_datagrams_to_host"]
_FROM_HOST: Final = INDEX["egress_datagrams_from_host"]
_SEND_FAILED: Final = INDEX["egress_datagram_dropped_send_failed"]
_SOCKET_FULL: Final = INDEX["egress_datagram_dropped_socket_full"]
_NO_SOCKET: Final = INDEX["egress_datagram_dropped_no_socket"]
_TOO_MANY_CLIENTS: Final = INDEX["egress_datagram_dropped_too_many_clients"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]


class UdpFlow:
    """A guest's flow: a host socket connected to its one remote."""

    __slots__ = ("guest_addr", "number", "ports", "readable", "remote_addr", "sock")

    def __init__(
        self, number: int, sock: socket.socket, guest_addr: int, remote_addr: int, ports: int
    ) -> None:
        self.number = number
        self.sock = sock
        self.guest_addr = guest_addr
        self.remote_addr = remote_addr
        self.ports = ports


class UdpForward:
    """A forwarded host port: many clients, each a flow towards the same guest address."""

    __slots__ = ("addr", "clients", "key", "numbers", "port", "sock")

    def __init__(self, key: str, sock: socket.socket, addr: int, port: int) -> None:
        self.key = key
        self.sock = sock
        self.addr = addr
        self.port = port
        self.clients: dict[tuple[str, int], int] = {}
        self.numbers: dict[int, tuple[str, int]] = {}


class UdpSockets:
    """All UDP sockets of one egress worker."""

    def __init__(
        self,
        worker: Worker,
        filler: SlotFiller,
        targets: nat.Nat,
        guard: Guard,
        demux_out: Producer,
        max_clients: int,
    ) -> None:
        """max_clients = host clients that one forwarded port may have."""
        self.max_clients = max_clients
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.filler = filler
        self.targets = targets
        self.guard = guard
        self.demux_out = demux_out
        self.flows: dict[int, UdpFlow] = {}
        self.forwards: dict[str, UdpForward] = {}
        self.by_number: dict[int, UdpForward] = {}
        self.ready: dict[UdpFlow | UdpForward, None] = {}
        self.more = False
        """Whether a socket had more than its share of the last step."""
        self._number = 0

    def next_number(self) -> int:
        """A flow number that egress allocates (also for dialled TCP flows)."""
        self._number = (self._number + 1) & 0x7FFFFFFF
        return d.FLOW_FROM_EGRESS | self._number

    # --- guest -> host ------------------------------------------------------------------

    def to_host(
        self, number: int, slot: int, off: int, length: int, guest_addr: int, remote_addr: int, ports: int
    ) -> None:
        """Send one datagram of flow number; the first one opens its socket. Gives the reference back."""
        payload = self.slots[slot][off : off + length]
        try:
            if number & d.FLOW_FROM_EGRESS:
                forward = self.by_number.get(number)
                if forward is None:
                    self.counts[_NO_SOCKET] += 1
                    return
                forward.sock.sendto(payload, forward.numbers[number])
            else:
                flow = self.flows.get(number) or self._open(number, guest_addr, remote_addr, ports)
                if flow is None:
                    return
                flow.sock.send(payload)
            self.counts[_TO_HOST] += 1
        except BlockingIOError:
            self.counts[_SOCKET_FULL] += 1
        except OSError as error:
            self.counts[_SEND_FAILED] += 1
            if not number & d.FLOW_FROM_EGRESS and refusal.answer_to_datagram(error.errno or 0) >= 0:
                self._refused(number, error.errno or 0)
        finally:
            payload.release()
            self.worker.free(slot)

    def _open(self, number: int, guest_addr: int, remote_addr: int, ports: int) -> UdpFlow | None:
        target = self.targets.udp_target(remote_addr, ports & 0xFFFF)
        if target.refused:
            self.counts[INDEX[target.refused]] += 1
            self._tell_closed(number, target.errno)
            return None
        if self.guard.active and self.guard.refuses(guest_addr, remote_addr, ports & 0xFFFF, "udp"):
            self._tell_unreachable(guest_addr, remote_addr, ports, REFUSED)
            self._tell_closed(number, REFUSED)
            return None
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
                sock.connect((ipv4.addr_text(target.addr), ports & 0xFFFF))
            except OSError:
                sock.close()
                raise
        except OSError as error:
            self.counts[_NO_SOCKET] += 1
            self._tell_unreachable(guest_addr, remote_addr, ports, error.errno or errno.EIO)
            self._tell_closed(number, error.errno or errno.EIO)
            return None
        flow = UdpFlow(number, sock, guest_addr, remote_addr, ports)
        self.flows[number] = flow
        self.worker.register(sock.fileno(), _EVENTS, lambda _events: self.ready.__setitem__(flow, None))
        return flow

    # --- host -> guest ------------------------------------------------------------------

    def read_ready(self, now: float) -> int:
        """Take datagrams from sockets with something to read, a bounded number from each."""
        self.more = False
        if not self.ready or self.demux_out.room() <= 0:
            return 0
        reads = 0
        for source in list(self.ready):
            if isinstance(source, UdpFlow):
                count, more = self._read_flow(source)
            else:
                count, more = self._read_forward(source)
            reads += count
            if not more:
                self.ready.pop(source, None)
        return reads

    def _read_flow(self, flow: UdpFlow) -> tuple[int, bool]:
        filler = self.filler
        push = self.demux_out.push
        for count in range(READS_A_SOCKET):
            if not filler.place(MAX_DATAGRAM):
                self.counts[_PAUSED] += 1
                return count, True
            slot, off = filler.slot, filler.off
            try:
                length = flow.sock.recv_into(self.slots[slot][off : off + MAX_DATAGRAM])
            except BlockingIOError:
                return count, False
            except OSError as error:
                self._refused(flow.number, error.errno or errno.EIO)
                return count, False
            filler.commit(length)
            self.counts[_FROM_HOST] += 1
            push(
                d.record(
                    d.UDP_DATA,
                    flow=flow.number,
                    slot=slot,
                    off=off,
                    length=length,
                    guest_addr=flow.guest_addr,
                    remote_addr=flow.remote_addr,
                    ports=flow.ports,
                )
            )
        self.more = True
        return READS_A_SOCKET, True

    def _read_forward(self, forward: UdpForward) -> tuple[int, bool]:
        filler = self.filler
        for count in range(READS_A_SOCKET):
            if not filler.place(MAX_DATAGRAM):
                self.counts[_PAUSED] += 1
                return count, True
            slot, off = filler.slot, filler.off
            try:
                length, client = forward.sock.recvfrom_into(self.slots[slot][off : off + MAX_DATAGRAM])
            except BlockingIOError:
                return count, False
            except OSError:
                # An ICMP error for a datagram sent to a client that is gone; the port goes on.
                self.counts[_SEND_FAILED] += 1
                continue
            number = forward.clients.get(client)
            if number is None:
                if len(forward.clients) >= self.max_clients:
                    self.counts[_TOO_MANY_CLIENTS] += 1
                    continue
                number = self.next_number()
                forward.clients[client] = number
                forward.numbers[number] = client
                self.by_number[number] = forward
            filler.commit(length)
            self.counts[_FROM_HOST] += 1
            self.demux_out.push(
                d.record(
                    d.UDP_DATA,
                    flow=number,
                    slot=slot,
                    off=off,
                    length=length,
                    guest_addr=forward.addr,
                    ports=forward.port << 16,
                    aux=self.worker.index,
                )
            )
        self.more = True
        return READS_A_SOCKET, True

    # --- ends -------------------------------------------------------------------------

    def _refused(self, number: int, error: int) -> None:
        """The flow's socket failed: the guest is told by ICMP, its next datagram opens another one."""
        flow = self.flows.get(number)
        if flow is not None:
            self._tell_unreachable(flow.guest_addr, flow.remote_addr, flow.ports, error)
        self.close(number)
        self._tell_closed(number, error)

    def _tell_unreachable(self, guest_addr: int, remote_addr: int, ports: int, error: int) -> None:
        code = refusal.answer_to_datagram(error)
        if code >= 0:
            self.demux_out.push(
                d.record(
                    d.UNREACHABLE,
                    guest_addr=guest_addr,
                    remote_addr=remote_addr,
                    ports=ports,
                    aux=ipv4.PROTO_UDP << 8 | code,
                )
            )

    def _tell_closed(self, number: int, error: int) -> None:
        self.demux_out.push(d.record(d.UDP_CLOSE, flow=number, aux=error))

    def close(self, number: int) -> None:
        """Demux ended the flow, or its socket failed."""
        flow = self.flows.pop(number, None)
        if flow is not None:
            self.ready.pop(flow, None)
            self.worker.unregister(flow.sock.fileno())
            flow.sock.close()
            return
        forward = self.by_number.pop(number, None)
        if forward is not None:
            del forward.clients[forward.numbers.pop(number)]

    def add_forward(self, key: str, sock: socket.socket, addr: int, port: int) -> None:
        """Serve a bound UDP socket: its datagrams go to addr:port in the guest's network."""
        sock.setblocking(False)
        forward = UdpForward(key, sock, addr, port)
        self.forwards[key] = forward
        self.worker.register(sock.fileno(), _EVENTS, lambda _events: self.ready.__setitem__(forward, None))

    def remove_forward(self, key: str) -> None:
        """Stop serving a forwarded port and end all its flows."""
        forward = self.forwards.pop(key, None)
        if forward is None:
            return
        for number in list(forward.numbers):
            self.close(number)
            self._tell_closed(number, 0)
        self.ready.pop(forward, None)
        self.worker.unregister(forward.sock.fileno())
        forward.sock.close()

    def close_all(self) -> None:
        """Close every socket (the worker ends)."""
        for key in list(self.forwards):
            self.remove_forward(key)
        for number in list(self.flows):
            self.close(number)
