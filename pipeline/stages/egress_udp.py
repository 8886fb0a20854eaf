"""UDP half of the egress worker: one connected host socket a flow, and the sockets of forwarded UDP ports.

Flow numbers and their time-outs are demux's (pipeline.engines.udp); here is only what a
socket needs. Flows of forwarded ports are numbered here, one for each host client.
"""

import errno
import socket
from typing import Final

from pipeline import events as ev
from pipeline.counters import INDEX
from pipeline.engines import nat, refusal
from pipeline.host import tcp as host_tcp
from pipeline.host import udp as host_udp
from pipeline.host.filler import SlotFiller
from pipeline.host.udp import MAX_DATAGRAM
from pipeline.shm import descriptor as d
from pipeline.shm.arena import SLOT_BYTES
from pipeline.stages.egress_guard import REFUSED, Guard
from pipeline.stages.egress_sockets import SocketBound
from pipeline.stages.worker import Worker
from pipeline.wire import ipv4

READS_A_SOCKET: Final = 128
"""Datagrams taken from one socket in a step, about."""
LONG_READS: Final = 16
"""So many of them if they are long."""
CHUNKS: Final = ((192, 128), (1536, 45))
"""(bytes, how many): datagrams up to so many bytes are read in place together with others, at most so many
at once. An Ethernet has none above the second, and so many are what a slot takes."""
MOST_BYTES: Final = 1472
"""What the first datagrams of a flow are believed to have at most."""
GAP: Final = 64
"""Bytes between two of them: as after any other read, there is room for headers before each."""
MIN_READ: Final = 8192
"""With less room left in a slot, reading many goes on in a fresh one."""
SOCKET_BUFFER_BYTES: Final = 1 << 20

_EVENTS: Final = ev.READ | ev.EDGE
_TO_HOST: Final = INDEX["egress_datagrams_to_host"]
_FROM_HOST: Final = INDEX["egress_datagrams_from_host"]
_SEND_FAILED: Final = INDEX["egress_datagram_dropped_send_failed"]
_SOCKET_FULL: Final = INDEX["egress_datagram_dropped_socket_full"]
_NO_SOCKET: Final = INDEX["egress_datagram_dropped_no_socket"]
_TOO_MANY_CLIENTS: Final = INDEX["egress_datagram_dropped_too_many_clients"]
_NO_SLOT: Final = INDEX["egress_datagram_dropped_no_slot"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]


class UdpFlow:
    """A guest's flow: a host socket connected to its one remote."""

    __slots__ = ("guest_addr", "number", "past_demux", "ports", "receiver", "remote_addr", "sock", "tell_at")

    def __init__(
        self, number: int, sock: socket.socket, guest_addr: int, remote_addr: int, ports: int
    ) -> None:
        self.number = number
        self.sock = sock
        self.receiver: host_udp.Receiver | None = None
        """What takes many datagrams as long as the last ones at once; None if those were too long."""
        self.guest_addr = guest_addr
        self.remote_addr = remote_addr
        self.ports = ports
        self.past_demux = ports & 0xFFFF != nat.DNS_PORT
        """Answers go straight to ingress. Those to DNS questions demux counts."""
        self.tell_at = 0.0


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
        self.demux_out = worker.ports.rings_out["demux"]
        self.ingress_out = worker.ports.rings_out["ingress"]
        self.flows: dict[int, UdpFlow] = {}
        self.forwards: dict[str, UdpForward] = {}
        self.by_number: dict[int, UdpForward] = {}
        self.ready: dict[UdpFlow | UdpForward, None] = {}
        self.bound: SocketBound | None = None
        """How many sockets there may be, together with those of TCP and pings."""
        self.now = 0.0
        self.more = False
        """Whether a socket had more than its share of the last step."""
        self._number = 0
        self._sender = host_udp.Sender(host_udp.can_segment())
        self._receivers: list[host_udp.Receiver] = []
        """For ever longer datagrams."""
        if host_udp.can_receive_many():
            self._receivers = [host_udp.Receiver(rows, chunk) for chunk, rows in CHUNKS]

    def next_number(self) -> int:
        """A flow number that egress allocates (also for dialled TCP flows)."""
        self._number = (self._number + 1) & 0x7FFFFFFF
        return d.FLOW_FROM_EGRESS | self._number

    # --- guest -> host ------------------------------------------------------------------

    def on_steered(self, burst: memoryview) -> int:
        """Records that went past demux; the number. One whose flow is over does not open it again."""
        count = 0
        for (
            _kind, _flags, _link, stride, size, slot, off, length, _skip, number,
            _seq, _ack, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, _aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            if number in self.flows:
                self.to_host(number, slot, off, length, stride, size, guest_addr, remote_addr, ports)
            else:
                self.counts[_NO_SOCKET] += 1
                self.worker.free(slot)
        return count

    def to_host(
        self, number: int, slot: int, off: int, length: int, stride: int, size: int,
        guest_addr: int, remote_addr: int, ports: int,
    ) -> None:  # fmt: skip
        """Send datagrams of flow number; the first opens its socket. Gives the reference back.

        length > size > 0: several, as UDP_DATA says.
        """
        if length > size > 0:
            self._run_to_host(number, slot, off, length, stride, size, guest_addr, remote_addr, ports)
            self.worker.free(slot)
            return
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

    def _run_to_host(
        self, number: int, slot: int, off: int, length: int, stride: int, size: int,
        guest_addr: int, remote_addr: int, ports: int,
    ) -> None:  # fmt: skip
        """Send several datagrams with as few system calls as the system can."""
        pieces = host_tcp.pieces(self.slots[slot], off, stride, size, 0, length)
        address = None
        if number & d.FLOW_FROM_EGRESS:
            forward = self.by_number.get(number)
            if forward is None:
                self.counts[_NO_SOCKET] += len(pieces)
                return
            sock, address = forward.sock, forward.numbers[number]
        else:
            flow = self.flows.get(number) or self._open(number, guest_addr, remote_addr, ports)
            if flow is None:
                return
            sock = flow.sock
        try:
            sent = self._sender.send(sock, pieces, size, address)
            self.counts[_SOCKET_FULL] += len(pieces) - sent
        except host_udp.SendError as error:
            sent = error.sent
            self.counts[_SEND_FAILED] += len(pieces) - sent
            if address is None and refusal.answer_to_datagram(error.errno or 0) >= 0:
                self._refused(number, error.errno or 0)
        self.counts[_TO_HOST] += sent

    def _open(self, number: int, guest_addr: int, remote_addr: int, ports: int) -> UdpFlow | None:
        target = self.targets.udp_target(remote_addr, ports & 0xFFFF)
        if target.refused:
            self.counts[INDEX[target.refused]] += 1
            self._tell_closed(number)
            return None
        if self.guard.active and self.guard.refuses(guest_addr, remote_addr, ports & 0xFFFF, "udp"):
            self._tell_unreachable(guest_addr, remote_addr, ports, REFUSED)
            self._tell_closed(number)
            return None
        try:
            if self.bound is not None and self.bound.refuses():
                raise OSError(errno.EMFILE, "too many flows")
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
            self._tell_closed(number)
            return None
        flow = UdpFlow(number, sock, guest_addr, remote_addr, ports)
        flow.receiver = self._receiver_for(MOST_BYTES)
        self.flows[number] = flow
        self.worker.register(sock.fileno(), _EVENTS, lambda _events: self.ready.__setitem__(flow, None))
        return flow

    # --- host -> guest ------------------------------------------------------------------

    def read_ready(self, now: float) -> int:
        """Take datagrams from sockets with something to read, a bounded number from each."""
        self.more = False
        if not self.ready or self.demux_out.room() <= 0 or self.ingress_out.room() <= 0:
            return 0
        reads = 0
        self.now = now
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
        """One datagram, then many at a time; datagrams and whether there may be more."""
        count = 0
        reads = 0
        while count < READS_A_SOCKET and reads < LONG_READS:
            reads += 1
            try:
                if flow.receiver is not None:
                    got, room = self._read_many(flow, flow.receiver)
                else:
                    got, room = self._read_one(flow)
            except BlockingIOError:
                return count, False
            except OSError as error:
                self._refused(flow.number, error.errno or errno.EIO)
                return count, False
            if not got:
                self.counts[_PAUSED] += 1
                return count, True
            count += got
            if got < room:
                # It was empty; what came since is a new event.
                return count, False
        self.more = True
        return count, True

    def _read_one(self, flow: UdpFlow) -> tuple[int, int]:
        """Read a datagram of any length: (1, 1), or (0, 1) when there is no slot. Raises OSError."""
        filler = self.filler
        if not filler.place(MAX_DATAGRAM):
            return 0, 1
        slot, off = filler.slot, filler.off
        length = flow.sock.recv_into(self.slots[slot][off : off + MAX_DATAGRAM])
        filler.commit(length)
        self.counts[_FROM_HOST] += 1
        flow.receiver = self._receiver_for(length)
        self._tell_data(flow, slot, off, length, 0, length)
        return 1, 1

    def _read_many(self, flow: UdpFlow, receiver: host_udp.Receiver) -> tuple[int, int]:
        """Read datagrams until there is none or no room: how many, and for how many there was room."""
        filler = self.filler
        if not filler.place(MIN_READ):
            return 0, 1
        slot, off = filler.slot, filler.off
        chunk = receiver.chunk
        pitch = chunk + GAP
        room = min(receiver.rows, (SLOT_BYTES - off) // pitch)
        lengths = receiver.receive(flow.sock.fileno(), self.slots[slot], off, pitch, room)
        count = len(lengths)
        self.counts[_FROM_HOST] += count
        # The read itself has this reference until every run has one of its own.
        filler.commit((count - 1) * pitch + min(lengths[-1], chunk))
        flow.receiver = self._receiver_for(max(lengths))
        for first, number in host_udp.runs(lengths, chunk):
            size = lengths[first]
            if size > chunk:
                self._long(flow, slot, off + first * pitch, chunk, receiver.rest(first, size))
                continue
            self.worker.pool.ref(slot)
            length = size if number == 1 else (number - 1) * size + lengths[first + number - 1]
            self._tell_data(flow, slot, off + first * pitch, length, pitch if number > 1 else 0, size)
        self.worker.pool.unref(slot)
        return count, room

    def _receiver_for(self, length: int) -> host_udp.Receiver | None:
        """What reads many datagrams of that length in place."""
        for receiver in self._receivers:
            if length <= receiver.chunk:
                return receiver
        return None

    def _long(self, flow: UdpFlow, slot: int, off: int, chunk: int, rest: memoryview) -> None:
        """A datagram that was longer than its row: in one piece, elsewhere."""
        filler = self.filler
        length = chunk + len(rest)
        if not filler.place(length):
            self.counts[_NO_SLOT] += 1
            return
        to = self.slots[filler.slot]
        at = filler.off
        to[at : at + chunk] = self.slots[slot][off : off + chunk]
        to[at + chunk : at + length] = rest
        where = filler.slot
        filler.commit(length)
        self._tell_data(flow, where, at, length, 0, length)

    def _tell_data(self, flow: UdpFlow, slot: int, off: int, length: int, stride: int, size: int) -> None:
        if flow.past_demux:
            count = d.piece_count(length, size)
            self.ingress_out.push(
                d.DESCRIPTOR.pack(
                    d.UDP_TO_GUEST, 0, 0, stride, size, slot, off, length, 0, count,
                    0, 0, 0, 0, 0, flow.guest_addr, flow.remote_addr, flow.ports, 0,
                )
            )  # fmt: skip
            if self.now >= flow.tell_at:
                flow.tell_at = self.now + d.TELL_EVERY_S
                self.demux_out.push(d.record(d.UDP_ANSWERED, flow=flow.number))
            return
        self.demux_out.push(
            d.DESCRIPTOR.pack(
                d.UDP_DATA, 0, 0, stride, size, slot, off, length, 0, flow.number,
                0, 0, 0, 0, 0, flow.guest_addr, flow.remote_addr, flow.ports, 0,
            )
        )  # fmt: skip

    def _read_forward(self, forward: UdpForward) -> tuple[int, bool]:
        filler = self.filler
        for count in range(LONG_READS):
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
                    gso_size=length,
                    guest_addr=forward.addr,
                    ports=forward.port << 16,
                    aux=self.worker.index,
                )
            )
        self.more = True
        return LONG_READS, True

    # --- ends -------------------------------------------------------------------------

    def _refused(self, number: int, error: int) -> None:
        """The flow's socket failed: the guest is told by ICMP, its next datagram opens another one."""
        flow = self.flows.get(number)
        if flow is not None:
            self._tell_unreachable(flow.guest_addr, flow.remote_addr, flow.ports, error)
        self.close(number)
        self._tell_closed(number)

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

    def _tell_closed(self, number: int) -> None:
        self.demux_out.push(d.record(d.UDP_CLOSE, flow=number))

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
            self._tell_closed(number)
        self.ready.pop(forward, None)
        self.worker.unregister(forward.sock.fileno())
        forward.sock.close()

    def close_all(self) -> None:
        """Close every socket (the worker ends)."""
        for key in list(self.forwards):
            self.remove_forward(key)
        for number in list(self.flows):
            self.close(number)
