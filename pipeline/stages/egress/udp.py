"""UDP half of the egress worker: one connected host socket a flow. Forwarded ports are in egress_forwards.

With ``udp-nat: full-cone`` a guest's flows have other sockets, which are in egress_cone.
Flow numbers and their time-outs are demux's (pipeline.engines.udp); here is only what a
socket needs.
"""

import errno
import socket
from collections.abc import Sized
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import nat, refusal
from pipeline.host import tcp as host_tcp
from pipeline.host import udp as host_udp
from pipeline.host.filler import SlotFiller
from pipeline.host.udp import MAX_DATAGRAM
from pipeline.ipc import events as ev
from pipeline.ipc.arena import SLOT_BYTES
from pipeline.records import descriptor as d
from pipeline.stages.egress.cone import Cone, Cones
from pipeline.stages.egress.forwards import UdpForward, UdpForwards
from pipeline.stages.egress.guard import REFUSED, Guard
from pipeline.stages.egress.sockets import USED_AGAIN_S, SocketBound
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
_NO_SLOT: Final = INDEX["egress_datagram_dropped_no_slot"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]


def _new_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


class UdpFlow:
    """A guest's flow: a host socket connected to its one remote."""

    __slots__ = (
        "guest_addr", "link", "number", "past_demux", "ports", "receiver", "remote_addr", "sock", "tell_at",
        "used_at",
    )  # fmt: skip

    def __init__(
        self, number: int, sock: socket.socket, guest_addr: int, remote_addr: int, ports: int, link: int
    ) -> None:
        self.number = number
        self.sock = sock
        self.link = link
        self.used_at = 0.0
        """When the bound on sockets was last told that it is in use."""
        self.receiver: host_udp.Receiver | None = None
        """What takes many datagrams as long as the last ones at once; None if those were too long."""
        self.guest_addr = guest_addr
        self.remote_addr = remote_addr
        self.ports = ports
        self.past_demux = ports & 0xFFFF != nat.DNS_PORT
        """Answers go straight to ingress. Those to DNS questions demux counts."""
        self.tell_at = 0.0


class UdpSockets:
    """All UDP sockets of one egress worker."""

    def __init__(
        self,
        worker: Worker,
        filler: SlotFiller,
        targets: nat.Nat,
        guard: Guard,
        max_clients: int,
        full_cone: bool = False,
    ) -> None:
        """max_clients = host clients that one forwarded port may have. full_cone: see egress_cone."""
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.filler = filler
        self.targets = targets
        self.guard = guard
        self.demux_out = worker.ports.rings_out["demux"]
        self.ingress_out = worker.ports.rings_out["ingress"]
        self.flows: dict[int, UdpFlow] = {}
        self.ready: dict[object, None] = {}
        """Flows, forwards and cones with something to read."""
        self.bound: SocketBound | None = None
        """How many sockets there may be, together with those of TCP and pings."""
        self.now = 0.0
        self.more = False
        """Whether a socket had more than its share of the last step."""
        self._number = 0
        self._sender = host_udp.Sender(host_udp.can_segment())
        self.forwarded = UdpForwards(worker, filler, self._sender, self.ready, self.next_number, max_clients)
        self.cones: Cones | None = None
        if full_cone:
            self.cones = Cones(worker, filler, self._sender, targets, guard, self.ready, self)
        self._receivers: list[host_udp.Receiver] = []
        """For ever longer datagrams."""
        if host_udp.can_receive_many():
            self._receivers = [host_udp.Receiver(rows, chunk) for chunk, rows in CHUNKS]

    def new_socket(self, link: int) -> socket.socket:
        """A datagram socket for the guest behind link. Raises OSError where there may be no further one."""
        return _new_socket() if self.bound is None else self.bound.datagram_socket(link, _new_socket)

    def sockets(self) -> Sized:
        """What has one socket an item."""
        return self.flows if self.cones is None else self.cones.cones

    def next_number(self) -> int:
        """A flow number that egress allocates (also for dialled TCP flows)."""
        self._number = (self._number + 1) & 0x7FFFFFFF
        return d.FLOW_FROM_EGRESS | self._number

    # --- guest -> host ------------------------------------------------------------------

    def on_steered(self, burst: memoryview) -> int:
        """Records that went past demux; the number. One whose flow is over does not open it again."""
        count = 0
        for (
            _kind, _flags, link, stride, size, slot, off, length, _skip, number,
            _seq, _ack, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, _aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            if number in self.flows or (self.cones is not None and number in self.cones.flows):
                self.to_host(number, slot, off, length, stride, size, guest_addr, remote_addr, ports, link)
            else:
                self.counts[_NO_SOCKET] += 1
                self.worker.free(slot)
        return count

    def to_host(
        self, number: int, slot: int, off: int, length: int, stride: int, size: int,
        guest_addr: int, remote_addr: int, ports: int, link: int = 0,
    ) -> None:  # fmt: skip
        """Send datagrams of flow number; the first opens its socket. Gives the reference back.

        length > size > 0: several, as UDP_DATA says.
        """
        if length > size > 0:
            self._run_to_host(number, slot, off, length, stride, size, guest_addr, remote_addr, ports, link)
            self.worker.free(slot)
            return
        payload = self.slots[slot][off : off + length]
        try:
            if number & d.FLOW_FROM_EGRESS:
                self.forwarded.to_host(number, (payload,), length)
                return
            if self.cones is not None:
                self.cones.to_host(number, (payload,), length, guest_addr, remote_addr, ports, link)
                return
            flow = self.flows.get(number) or self._open(number, guest_addr, remote_addr, ports, link)
            if flow is None:
                return
            self._use(flow)
            flow.sock.send(payload)
            self.counts[_TO_HOST] += 1
        except BlockingIOError:
            self.counts[_SOCKET_FULL] += 1
        except OSError as error:
            self.counts[_SEND_FAILED] += 1
            if refusal.answer_to_datagram(error.errno or 0) >= 0:
                self._refused(number, error.errno or 0)
        finally:
            payload.release()
            self.worker.free(slot)

    def _run_to_host(
        self, number: int, slot: int, off: int, length: int, stride: int, size: int,
        guest_addr: int, remote_addr: int, ports: int, link: int = 0,
    ) -> None:  # fmt: skip
        """Send several datagrams with as few system calls as the system can."""
        pieces = host_tcp.pieces(self.slots[slot], off, stride, size, 0, length)
        if number & d.FLOW_FROM_EGRESS:
            self.forwarded.to_host(number, pieces, size)
            return
        if self.cones is not None:
            self.cones.to_host(number, pieces, size, guest_addr, remote_addr, ports, link)
            return
        flow = self.flows.get(number) or self._open(number, guest_addr, remote_addr, ports, link)
        if flow is None:
            return
        self._use(flow)
        try:
            sent = self._sender.send(flow.sock, pieces, size)
            self.counts[_SOCKET_FULL] += len(pieces) - sent
        except host_udp.SendError as error:
            sent = error.sent
            self.counts[_SEND_FAILED] += len(pieces) - sent
            if refusal.answer_to_datagram(error.errno or 0) >= 0:
                self._refused(number, error.errno or 0)
        self.counts[_TO_HOST] += sent

    def _use(self, flow: UdpFlow) -> None:
        """A datagram went either way."""
        if self.now - flow.used_at >= USED_AGAIN_S:
            flow.used_at = self.now
            if self.bound is not None:
                self.bound.used(flow)

    def _open(self, number: int, guest_addr: int, remote_addr: int, ports: int, link: int) -> UdpFlow | None:
        target = self.targets.udp_target(remote_addr, ports & 0xFFFF)
        if target.refused:
            self.counts[INDEX[target.refused]] += 1
            self.tell_closed(number)
            return None
        if self.guard.active and self.guard.refuses(guest_addr, remote_addr, ports & 0xFFFF, "udp"):
            self.tell_unreachable(guest_addr, remote_addr, ports, REFUSED)
            self.tell_closed(number)
            return None
        try:
            sock = self.new_socket(link)
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
            self.tell_unreachable(guest_addr, remote_addr, ports, error.errno or errno.EIO)
            self.tell_closed(number)
            return None
        flow = UdpFlow(number, sock, guest_addr, remote_addr, ports, link)
        flow.used_at = self.now
        if self.bound is not None:
            self.bound.opened(flow, self._evict)
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
            elif isinstance(source, UdpForward):
                count, more = self.forwarded.read(source)
                self.more = self.more or more
            elif self.cones is not None and isinstance(source, Cone):
                count, more = self.cones.read(source, now)
                self.more = self.more or more
            else:
                continue
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
        self._use(flow)
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

    # --- ends -------------------------------------------------------------------------

    def _refused(self, number: int, error: int) -> None:
        """The flow's socket failed: the guest is told by ICMP, its next datagram opens another one."""
        flow = self.flows.get(number)
        if flow is not None:
            self.tell_unreachable(flow.guest_addr, flow.remote_addr, flow.ports, error)
        self.close(number)
        self.tell_closed(number)

    def tell_unreachable(self, guest_addr: int, remote_addr: int, ports: int, error: int) -> None:
        """Tell the guest by ICMP why its datagram went nowhere, where an errno has a message."""
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

    def _evict(self, flow: UdpFlow) -> None:
        """Its socket is needed for another flow."""
        self.close(flow.number)
        self.tell_closed(flow.number)

    def tell_closed(self, number: int) -> None:
        """Tell demux that a flow is over."""
        self.demux_out.push(d.record(d.UDP_CLOSE, flow=number))

    def close(self, number: int) -> None:
        """Demux ended the flow, or its socket failed."""
        flow = self.flows.pop(number, None)
        if flow is not None:
            self.ready.pop(flow, None)
            if self.bound is not None:
                self.bound.closed(flow)
            self.worker.unregister(flow.sock.fileno())
            flow.sock.close()
            return
        if number & d.FLOW_FROM_EGRESS:
            self.forwarded.close(number)
        elif self.cones is not None:
            self.cones.close(number)

    def remove_forward(self, key: str) -> None:
        """Stop serving a forwarded port and end all its flows."""
        for number in self.forwarded.remove(key):
            self.tell_closed(number)

    def close_all(self) -> None:
        """Close every socket (the worker ends)."""
        for key in list(self.forwarded.forwards):
            self.remove_forward(key)
        for number in [*self.flows, *(self.cones.flows if self.cones is not None else ())]:
            self.close(number)
