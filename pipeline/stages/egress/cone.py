"""UDP flows of the egress worker with ``udp-nat: full-cone``: one host socket for each port of a guest.

RFC 4787 calls this endpoint-independent mapping (REQ-1) and filtering (section 5). All flows that a guest has
from one of its ports share a *cone*: a socket that is not connected. So everybody sees one address of the
guest, and everybody may answer there. A *stranger* is a remote to which the guest has not spoken; its
datagrams reach the guest with their true source. That is what TFTP, SIP and STUN need.

- A cone lives as long as one of its flows. Demux bounds and ends flows as ever, and strangers renew none.
- A stranger must be an address that the guest could reach, by the NAT table and by the egress policy.
- An ICMP error is passed on and ends nothing (RFC 5508 REQ-8): a peer may open its own side later.
- The port is one of the system's choice. A guest must not be able to take a certain port of the host.
"""

import errno
import socket
from collections.abc import Sequence
from typing import Any, Final, Protocol

from pipeline.counters import INDEX
from pipeline.engines import nat
from pipeline.host import udp as host_udp
from pipeline.host import udp_errors
from pipeline.host.filler import SlotFiller
from pipeline.host.udp import MAX_DATAGRAM
from pipeline.ipc import events as ev
from pipeline.ipc.arena import SLOT_BYTES
from pipeline.records import descriptor as d
from pipeline.stages.egress.guard import REFUSED, Guard
from pipeline.stages.egress.sockets import USED_AGAIN_S, SocketBound
from pipeline.stages.worker import Worker
from pipeline.wire import ipv4

READS_A_CONE: Final = 128
"""Datagrams taken from one socket in a step, about."""
LONG_READS: Final = 16
"""Calls for that at most."""
ERRORS_A_TIME: Final = 16
TRIES: Final = 3
"""How often a datagram is sent that fails by an error about earlier ones."""
CHUNKS: Final = ((192, 128), (1536, 45))
"""(bytes, how many), as in pipeline.stages.egress_udp."""
GAP: Final = 64
MIN_READ: Final = 8192
SOCKET_BUFFER_BYTES: Final = 1 << 20
NO_ADDRESS: Final = -1

_EVENTS: Final = ev.READ | ev.EDGE
_TO_HOST: Final = INDEX["egress_datagrams_to_host"]
_FROM_HOST: Final = INDEX["egress_datagrams_from_host"]
_SEND_FAILED: Final = INDEX["egress_datagram_dropped_send_failed"]
_SOCKET_FULL: Final = INDEX["egress_datagram_dropped_socket_full"]
_NO_SOCKET: Final = INDEX["egress_datagram_dropped_no_socket"]
_NO_SLOT: Final = INDEX["egress_datagram_dropped_no_slot"]
_PAUSED: Final = INDEX["egress_reads_paused_no_slot"]
_FOREIGN: Final = INDEX["egress_datagram_dropped_foreign_source"]
_POLICY: Final = INDEX["egress_datagram_dropped_policy"]


class Owner(Protocol):
    """Who tells guests and demux what becomes of flows."""

    now: float
    bound: SocketBound | None

    def new_socket(self, link: int) -> socket.socket:
        """A socket for the guest behind link. Raises OSError where there may be no further one."""

    def tell_unreachable(self, guest_addr: int, remote_addr: int, ports: int, error: int) -> None:
        """Tell the guest by ICMP, where an errno has a message."""

    def tell_closed(self, number: int) -> None:
        """Tell demux that a flow is over."""


class ConeFlow:
    """What a guest sends to one remote."""

    __slots__ = ("address", "cone", "number", "past_demux", "ports", "remote_addr", "source", "tell_at")

    def __init__(
        self, number: int, cone: "Cone", address: Any, source: int, remote_addr: int, ports: int
    ) -> None:
        self.number = number
        self.cone = cone
        self.address: Any = address
        self.source = source
        """The same as a number, address << 16 | port."""
        self.remote_addr = remote_addr
        """The address as the guest has it."""
        self.ports = ports
        self.past_demux = ports & 0xFFFF != nat.DNS_PORT
        """Answers go straight to ingress. Those to DNS questions demux counts."""
        self.tell_at = 0.0


class Cone:
    """The socket of one port of a guest."""

    __slots__ = (
        "failed", "flows", "guest_addr", "guest_port", "link", "numbers", "receiver", "sock", "used_at",
    )  # fmt: skip

    def __init__(self, guest_addr: int, guest_port: int, sock: socket.socket, link: int) -> None:
        self.link = link
        self.used_at = 0.0
        """When the bound on sockets was last told that it is in use."""
        self.guest_addr = guest_addr
        self.guest_port = guest_port
        self.sock = sock
        self.flows: dict[int, ConeFlow] = {}
        """By source of the answers. Two addresses of the NAT table may be one: then the later flow."""
        self.numbers: set[int] = set()
        """Flows that keep the socket open."""
        self.receiver: host_udp.Receiver | None = None
        """What takes many datagrams as long as the last ones at once; None if those were too long."""
        self.failed = False
        """Whether there are errors to take."""


class Cones:
    """All cones of one egress worker."""

    def __init__(
        self,
        worker: Worker,
        filler: SlotFiller,
        sender: host_udp.Sender,
        targets: nat.Nat,
        guard: Guard,
        ready: dict[object, None],
        owner: Owner,
    ) -> None:
        """ready: where sockets with something to read are noted."""
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.filler = filler
        self.sender = sender
        self.targets = targets
        self.guard = guard
        self.ready = ready
        self.owner = owner
        self.demux_out = worker.ports.rings_out["demux"]
        self.ingress_out = worker.ports.rings_out["ingress"]
        self.flows: dict[int, ConeFlow] = {}
        self.cones: dict[tuple[int, int], Cone] = {}
        """By address and port of the guest."""
        self._receivers: list[host_udp.Receiver] = []
        if host_udp.can_receive_many():
            self._receivers = [host_udp.Receiver(rows, chunk, sources=True) for chunk, rows in CHUNKS]

    # --- guest -> host ------------------------------------------------------------------

    def to_host(
        self,
        number: int,
        pieces: Sequence[memoryview],
        size: int,
        guest_addr: int,
        remote_addr: int,
        ports: int,
        link: int,
    ) -> None:
        """Send datagrams of a flow, all of size bytes but for a shorter last. The first opens the flow."""
        flow = self.flows.get(number) or self._open(number, guest_addr, remote_addr, ports, link)
        if flow is None:
            return
        cone = flow.cone
        self._use(cone)
        sent = 0
        lost = _SEND_FAILED
        for _ in range(TRIES):
            try:
                if len(pieces) == 1:
                    cone.sock.sendto(pieces[0], flow.address)
                    sent = 1
                else:
                    sent += self.sender.send(cone.sock, pieces[sent:], size, flow.address)
                lost = _SOCKET_FULL
                break
            except BlockingIOError:
                lost = _SOCKET_FULL
                break
            except OSError as error:
                sent += error.sent if isinstance(error, host_udp.SendError) else 0
                # As a rule it is about a datagram before, to anybody, and this one may go.
                if not self._take_errors(cone):
                    self.owner.tell_unreachable(guest_addr, remote_addr, ports, error.errno or errno.EIO)
                    break
        self.counts[_TO_HOST] += sent
        self.counts[lost] += len(pieces) - sent

    def _open(self, number: int, guest_addr: int, remote_addr: int, ports: int, link: int) -> ConeFlow | None:
        port = ports & 0xFFFF
        target = self.targets.udp_target(remote_addr, port)
        if target.refused:
            self.counts[INDEX[target.refused]] += 1
            self.owner.tell_closed(number)
            return None
        if self.guard.active and self.guard.refuses(guest_addr, remote_addr, port, "udp"):
            self.owner.tell_unreachable(guest_addr, remote_addr, ports, REFUSED)
            self.owner.tell_closed(number)
            return None
        try:
            cone = self.cones.get((guest_addr, ports >> 16)) or self._open_cone(guest_addr, ports >> 16, link)
        except OSError as error:
            self.counts[_NO_SOCKET] += 1
            self.owner.tell_unreachable(guest_addr, remote_addr, ports, error.errno or errno.EIO)
            self.owner.tell_closed(number)
            return None
        source = target.addr << 16 | port
        flow = ConeFlow(number, cone, (ipv4.addr_text(target.addr), port), source, remote_addr, ports)
        self.flows[number] = flow
        cone.flows[source] = flow
        cone.numbers.add(number)
        return flow

    def _open_cone(self, guest_addr: int, guest_port: int, link: int) -> Cone:
        sock = self.owner.new_socket(link)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            udp_errors.watch(sock)
            sock.bind(("0.0.0.0", 0))
        except OSError:
            sock.close()
            raise
        cone = Cone(guest_addr, guest_port, sock, link)
        cone.used_at = self.owner.now
        if (bound := self.owner.bound) is not None:
            bound.opened(cone, self._evict)
        cone.receiver = self._receivers[-1] if self._receivers else None
        self.cones[guest_addr, guest_port] = cone
        self.worker.register(sock.fileno(), _EVENTS, lambda events: self._on_event(cone, events))
        return cone

    def _use(self, cone: Cone) -> None:
        """A datagram of a flow of the guest went either way. Those of strangers do not count."""
        now = self.owner.now
        if now - cone.used_at >= USED_AGAIN_S:
            cone.used_at = now
            if (bound := self.owner.bound) is not None:
                bound.used(cone)

    def _evict(self, cone: Cone) -> None:
        """Its socket is needed for another flow."""
        for number in list(cone.numbers):
            self.close(number)
            self.owner.tell_closed(number)

    # --- host -> guest ------------------------------------------------------------------

    def _on_event(self, cone: Cone, events: int) -> None:
        if events & ev.ERROR:
            cone.failed = True
        self.ready[cone] = None

    def read(self, cone: Cone, now: float) -> tuple[int, bool]:
        """Take errors and datagrams from a cone: how many datagrams, and whether there may be more."""
        if cone.failed:
            cone.failed = False
            self._take_errors(cone)
        count = reads = 0
        while count < READS_A_CONE and reads < LONG_READS:
            reads += 1
            try:
                if cone.receiver is not None:
                    got, room = self._read_many(cone, cone.receiver, now)
                else:
                    got, room = self._read_one(cone, now)
            except BlockingIOError:
                return count, False
            except OSError:
                self._take_errors(cone)
                continue
            if not got:
                self.counts[_PAUSED] += 1
                return count, True
            count += got
            if got < room:
                # It was empty; what came since is a new event.
                return count, False
        return count, True

    def _read_one(self, cone: Cone, now: float) -> tuple[int, int]:
        """Read a datagram of any length: (1, 1), or (0, 1) when there is no slot. Raises OSError."""
        filler = self.filler
        if not filler.place(MAX_DATAGRAM):
            return 0, 1
        slot, off = filler.slot, filler.off
        got: Any = cone.sock.recvfrom_into(self.slots[slot][off : off + MAX_DATAGRAM])
        length = int(got[0])
        source = ipv4.addr_parse(str(got[1][0])) << 16 | int(got[1][1])
        self.counts[_FROM_HOST] += 1
        cone.receiver = self._receiver_for(length)
        remote = self._remote_of(cone, source, 1)
        if remote != NO_ADDRESS:
            filler.commit(length)
            self._deliver(cone, source, remote, slot, off, length, 0, length, now)
        return 1, 1

    def _read_many(self, cone: Cone, receiver: host_udp.Receiver, now: float) -> tuple[int, int]:
        """Read datagrams until there is none or no room: how many, and for how many there was room."""
        filler = self.filler
        if not filler.place(MIN_READ):
            return 0, 1
        slot, off = filler.slot, filler.off
        chunk = receiver.chunk
        pitch = chunk + GAP
        room = min(receiver.rows, (SLOT_BYTES - off) // pitch)
        lengths = receiver.receive(cone.sock.fileno(), self.slots[slot], off, pitch, room)
        count = len(lengths)
        sources = receiver.sources(count)
        self.counts[_FROM_HOST] += count
        # The read itself has this reference until every run has one of its own.
        filler.commit((count - 1) * pitch + min(lengths[-1], chunk))
        cone.receiver = self._receiver_for(max(lengths))
        begin = 0
        while begin < count:
            source = sources[begin]
            end = begin + 1
            while end < count and sources[end] == source:
                end += 1
            remote = self._remote_of(cone, source, end - begin)
            if remote != NO_ADDRESS:
                for index, number in host_udp.runs(lengths[begin:end], chunk):
                    first = begin + index
                    size = lengths[first]
                    at = off + first * pitch
                    if size > chunk:
                        rest = receiver.rest(first, size)
                        self._deliver_long(cone, source, remote, slot, at, chunk, rest, now)
                        continue
                    self.worker.pool.ref(slot)
                    length = size if number == 1 else (number - 1) * size + lengths[first + number - 1]
                    stride = pitch if number > 1 else 0
                    self._deliver(cone, source, remote, slot, at, length, stride, size, now)
            begin = end
        self.worker.pool.unref(slot)
        return count, room

    def _receiver_for(self, length: int) -> host_udp.Receiver | None:
        """What reads many datagrams of that length in place."""
        for receiver in self._receivers:
            if length <= receiver.chunk:
                return receiver
        return None

    def _remote_of(self, cone: Cone, source: int, count: int) -> int:
        """The address that count datagrams have for the guest; NO_ADDRESS if they are not for it, counted."""
        flow = cone.flows.get(source)
        if flow is not None:
            return flow.remote_addr
        host_addr, port = source >> 16, source & 0xFFFF
        remote = self.targets.seen_as(host_addr)
        target = self.targets.udp_target(remote, port)
        if target.service or target.refused or target.addr != host_addr or not port:
            self.counts[_FOREIGN] += count
            return NO_ADDRESS
        if self.guard.active and not self.guard.admits(cone.guest_addr, remote, port, "udp"):
            self.counts[_POLICY] += count
            return NO_ADDRESS
        return remote

    def _deliver_long(
        self,
        cone: Cone,
        source: int,
        remote: int,
        slot: int,
        off: int,
        chunk: int,
        rest: memoryview,
        now: float,
    ) -> None:
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
        self._deliver(cone, source, remote, where, at, length, 0, length, now)

    def _deliver(
        self, cone: Cone, source: int, remote: int, slot: int, off: int, length: int, stride: int, size: int,
        now: float,
    ) -> None:  # fmt: skip
        ports = cone.guest_port << 16 | source & 0xFFFF
        flow = cone.flows.get(source)
        if flow is not None:
            self._use(cone)
        if flow is not None and not flow.past_demux:
            self.demux_out.push(
                d.DESCRIPTOR.pack(
                    d.UDP_DATA, 0, 0, stride, size, slot, off, length, 0, flow.number,
                    0, 0, 0, 0, 0, cone.guest_addr, remote, ports, 0,
                )
            )  # fmt: skip
            return
        count = d.piece_count(length, size)
        self.ingress_out.push(
            d.DESCRIPTOR.pack(
                d.UDP_TO_GUEST, 0, 0, stride, size, slot, off, length, 0, count,
                0, 0, 0, 0, 0, cone.guest_addr, remote, ports, 0,
            )
        )  # fmt: skip
        if flow is not None and now >= flow.tell_at:
            flow.tell_at = now + d.TELL_EVERY_S
            self.demux_out.push(d.record(d.UDP_ANSWERED, flow=flow.number))

    # --- errors and ends ------------------------------------------------------------------

    def _take_errors(self, cone: Cone) -> int:
        """Tell the guest what became of its datagrams; how many errors there were."""
        found, taken = udp_errors.errors(cone.sock, ERRORS_A_TIME)
        for address, port, error in found:
            flow = cone.flows.get(ipv4.addr_parse(address) << 16 | port)
            if flow is not None:
                self.owner.tell_unreachable(cone.guest_addr, flow.remote_addr, flow.ports, error)
        return taken

    def close(self, number: int) -> None:
        """A flow is over. The last one closes the socket."""
        flow = self.flows.pop(number, None)
        if flow is None:
            return
        cone = flow.cone
        cone.numbers.discard(number)
        if cone.flows.get(flow.source) is flow:
            del cone.flows[flow.source]
        if not cone.numbers:
            del self.cones[cone.guest_addr, cone.guest_port]
            self.ready.pop(cone, None)
            if (bound := self.owner.bound) is not None:
                bound.closed(cone)
            self.worker.unregister(cone.sock.fileno())
            cone.sock.close()
