"""The egress worker: flows <-> host sockets (L4 and up).

For each TCP flow it opens a host connection, writes the guest's ranges out of their slots and
reads host bytes into slots of its own pool; UDP flows are in pipeline.stages.egress_udp.
Sockets are edge-triggered. What stops a fast host from filling memory: a flow reads on
only while fewer than ``quota`` of its references are out, and no socket is read at all while
records for another worker do not fit into their ring.
"""

import errno
import socket
from contextlib import suppress
from typing import Final

from pipeline.config.model import FULL_CONE, Config
from pipeline.counters import INDEX
from pipeline.engines import nat, refusal
from pipeline.host import tcp as host_tcp
from pipeline.host.filler import SlotFiller
from pipeline.host.stream import HostStream
from pipeline.ipc import events as ev
from pipeline.ipc import messages
from pipeline.ipc.arena import HEADROOM, SLOT_BYTES
from pipeline.ipc.channel import close_all
from pipeline.ipc.ring import BURST
from pipeline.records import descriptor as d
from pipeline.stages.egress.dials import Dials
from pipeline.stages.egress.flow import Asker, Flow, read_chunk
from pipeline.stages.egress.guard import Guard
from pipeline.stages.egress.icmp import EchoSockets
from pipeline.stages.egress.reads import HostReads
from pipeline.stages.egress.share import ClosingFlows, Shares
from pipeline.stages.egress.sockets import NO_DESCRIPTOR, Opener, SocketBound
from pipeline.stages.egress.udp import UdpSockets
from pipeline.stages.worker import Worker
from pipeline.topology import DATA_CAPACITY, INGRESS
from pipeline.wire import ipv4

READ_GAP: Final = 64
"""Bytes left before each read of a shared slot: room for the headers of a small frame."""
BURSTS_A_STEP: Final = 8
"""Bursts of datagrams taken from demux before TCP has its turn again."""
FEW_DATAGRAMS: Final = 2
"""Datagrams of hosts in one step that are no flood."""
WHOLE_RING: Final = DATA_CAPACITY // BURST + 2
"""Bursts that are certainly all that a ring held when the first was looked at."""
CLOSING_PART: Final = 4
"""Connections that are over may have one of so many parts of the sockets."""
SPILL_AFTER_S: Final = 0.05
"""How long bytes for a host that does not read may stay in slots before they are copied elsewhere."""

_WRITING: Final = frozenset({"OPEN", "CLOSING"})

_EVENTS: Final = ev.READ | ev.WRITE | ev.READ_HANGUP | ev.EDGE
_END_EVENTS: Final = ev.HANGUP | ev.ERROR
_READ_EVENTS: Final = ev.READ | ev.READ_HANGUP | ev.HANGUP | ev.ERROR

_OPENED: Final = INDEX["egress_connection_opened"]
_ACCEPTED: Final = INDEX["egress_connection_accepted"]
_FAILED: Final = INDEX["egress_connection_failed"]
_RESET: Final = INDEX["egress_connection_reset_by_host"]
_TO_HOST: Final = INDEX["egress_bytes_to_host"]
_FLOWS: Final = INDEX["egress_flows"]
_SPILLED: Final = INDEX["egress_bytes_spilled"]
_CLOSING_FULL: Final = INDEX["egress_connection_reset_closing_full"]
_CLOSING_STUCK: Final = INDEX["egress_connection_reset_closing_stuck"]


class EgressStage:
    """Flows of all tcp shards that RSS sent to this egress worker."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        self.slots = ports.arena.slots
        self.pool = worker.pool
        self.filler = SlotFiller(self.pool, SLOT_BYTES, HEADROOM, READ_GAP)
        self.shares = Shares(self.pool, SLOT_BYTES, HEADROOM, READ_GAP)
        self.max_flow_refs = config.max_slots_per_flow
        self.targets = nat.Nat.from_config(config)
        self.flows: dict[int, Flow] = {}
        self.dirty: dict[Flow, None] = {}
        self.stalled: dict[Flow, float] = {}
        """Flows with bytes that their host socket did not take, and since when."""
        self.tcp_in = [ports.rings_in[f"tcp{i}"] for i in range(config.tcp_workers)]
        self.tcp_out = [ports.rings_out[f"tcp{i}"] for i in range(config.tcp_workers)]
        self.reads = HostReads(worker, self.tcp_out, self.shares, self._broken)
        self.ready = self.reads.ready
        self.demux_in = ports.rings_in["demux"]
        self.demux_out = ports.rings_out["demux"]
        self.dials = Dials(self.demux_out)
        self.ingress_in = ports.rings_in["ingress"]
        self.leads_to = INGRESS if config.busy_poll else ""
        """Who is nudged when a host has answered; nobody where sleepers do not look for more."""
        self.guard = Guard(worker, config)
        clients, full_cone = config.max_udp_clients_per_forward, config.udp_nat == FULL_CONE
        self.udp = UdpSockets(worker, self.filler, self.targets, self.guard, clients, full_cone)
        self.icmp = EchoSockets(worker, self.filler, self.targets, self.guard, self.demux_out)
        self.bound = SocketBound(
            worker, self.shares, self.tcp_out, self.flows, self.udp.sockets(), self.icmp.flows
        )
        self.udp.bound = self.icmp.bound = self.bound
        self.opener = Opener(worker, self.targets, self.guard, self.bound, self._drain_demux)
        self.closing = ClosingFlows(config.max_closing_bytes, self.bound.limit // CLOSING_PART)

    # --- the step ---------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Rings -> sockets, then sockets -> rings. Returns the number of records and reads."""
        work = 0
        self.udp.now = now
        for shard, ring in enumerate(self.tcp_in):
            while burst := ring.peek():
                work += self._on_tcp_burst(shard, burst)
                ring.release(len(burst) // d.DESCRIPTOR_BYTES)
        work += self._drain_demux(BURSTS_A_STEP)
        for _ in range(BURSTS_A_STEP):
            if not (count := min(len(self.ingress_in), BURST)):
                break
            until = self.ingress_in.cons_idx + count
            if self.demux_in.pending():
                # Published before: datagrams of a flow that began to go past demux behind these.
                work += self._drain_demux(WHOLE_RING)
            work += self._take_steered(until)
        self.icmp.expire(now)
        if self.closing.deadline() <= now:
            self._end_closing(now)
        if self.dirty:
            self._flush(now)
        if self.stalled:
            self._spill_stalled(now)
        if self.dials.deadline() <= now:
            self._give_up_dialling(now)
        work += self.reads.read_ready(now)
        if datagrams := self.udp.read_ready(now):
            work += datagrams
            if datagrams <= FEW_DATAGRAMS:
                self.reads.small_flow(now)
        self.counts[_FLOWS] = len(self.flows)
        if not work:
            self.filler.rest()
            self.shares.rest()
        return work

    def deadline(self) -> float:
        """When the flow that stalled first is to be copied out; at once if there is more to read."""
        if self.reads.more or self.udp.more or self.demux_in.pending() or self.ingress_in.pending():
            return 0.0
        stalled = next(iter(self.stalled.values())) + SPILL_AFTER_S if self.stalled else float("inf")
        return min(stalled, self.icmp.deadline(), self.closing.deadline(), self.dials.deadline())

    # --- records from the tcp workers ---------------------------------------------------

    def _on_tcp_burst(self, shard: int, burst: memoryview) -> int:
        flows = self.flows
        dirty = self.dirty
        base = shard << 32
        count = 0
        for (
            kind, _flags, link, stride, gso_size, slot, off, length, skip, number,
            seq, _ack, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            key = number if number & d.FLOW_FROM_EGRESS else base | number
            if kind == d.CONNECT:
                self._connect(key, number, shard, (guest_addr, remote_addr, ports, seq), gso_size, link)
                continue
            flow = flows.get(key)
            if flow is None:
                # The host side ended first; what was under way for it meanwhile is void.
                if kind == d.TO_HOST:
                    self.worker.free(slot)
                continue
            if kind == d.TO_HOST:
                flow.stream.enqueue((slot, off, stride, gso_size, skip, length))
                dirty[flow] = None
            elif kind == d.SHUTDOWN:
                flow.stream.finish_writing()
                dirty[flow] = None
            elif kind == d.WINDOW:
                flow.credit.window = length
                if flow.stream.readable:
                    self.ready[flow] = None
            elif kind == d.GUEST_ANSWERED:
                self._guest_answered(flow, shard, gso_size, link)
            elif kind == d.ABORT:
                with suppress(OSError):
                    # What the guest sent before its reset, as far as the host takes it now.
                    self.counts[_TO_HOST] += flow.stream.flush(self.worker.free)
                self._forget(flow, reset=flow.state != "DIALLING")
            elif kind == d.DIAL_FAILED:
                if aux:
                    self._forget(flow, reset=False)
                else:
                    # The gateway's port is still in use towards this guest: demux takes the next one.
                    self._dial(flow)
            elif kind == d.CLOSED:
                # What the guest sent before may still wait for the host socket.
                flow.state = "CLOSING" if flow.state == "OPEN" else flow.state
                flow.stream.finish_writing()
                dirty[flow] = None
        return count

    def _connect(self, key: int, number: int, shard: int, asker: Asker, mss: int, link: int) -> None:
        sock, error = self.opener.open(asker, link)
        if sock is None:
            way = self.bound.way(link) if error in NO_DESCRIPTOR else 0
            self._connect_failed(shard, number, asker, error, way)
            return
        flow = Flow(key, number, shard, HostStream(sock, self.slots), "CONNECTING", self.shares.of(link))
        flow.asker = asker
        flow.chunk = read_chunk(mss)
        self.flows[key] = flow
        self.worker.register(sock.fileno(), _EVENTS, lambda events: self._on_event(flow, events))
        if host_tcp.stands(sock):
            self._stands(flow)
            # The guest waits for nothing that follows here.
            self.worker.publish()
        else:
            self.bound.opened(flow, self._give_up_connecting, connection=True)
        host_tcp.tune(sock)

    def _give_up_connecting(self, flow: Flow) -> None:
        """Its socket is needed. The guest is told nothing, as if its SYN were lost."""
        self._connect_failed(flow.shard, flow.number, flow.asker, errno.ETIMEDOUT)
        self._forget(flow, reset=False)

    def _stands(self, flow: Flow) -> None:
        self.bound.closed(flow, connection=True)
        flow.state = "OPEN"
        self.counts[_OPENED] += 1
        self._tell(flow, d.CONNECTED)
        self.worker.nudge(self.leads_to)

    def _connect_failed(self, shard: int, number: int, asker: Asker, error: int, way: int = 0) -> None:
        """Tell the engine, and the guest too where it is owed an ICMP message instead of a reset."""
        self.counts[_FAILED] += 1
        self.tcp_out[shard].push(d.record(d.CONNECT_FAILED, flow=number, aux=error, length=way))
        code = refusal.answer_to_syn(error)
        if code >= 0:
            guest_addr, remote_addr, ports, seq = asker
            self.demux_out.push(
                d.record(
                    d.UNREACHABLE,
                    guest_addr=guest_addr,
                    remote_addr=remote_addr,
                    ports=ports,
                    seq=seq,
                    aux=ipv4.PROTO_TCP << 8 | code,
                )
            )

    def _guest_answered(self, flow: Flow, shard: int, mss: int, link: int) -> None:
        self.dials.remove(flow)
        flow.shard = shard
        flow.join(self.shares.of(link))
        flow.chunk = read_chunk(mss)
        flow.state = "OPEN"
        stream = flow.stream
        if stream.first:
            stream.readable = True
            self.ready[flow] = None
        self.worker.register(stream.sock.fileno(), _EVENTS, lambda events: self._on_event(flow, events))

    # --- records from demux -------------------------------------------------------------

    def _drain_demux(self, bursts: int | None = None) -> int:
        """Take what demux has sent, at most so many bursts."""
        work = 0
        while bursts != 0 and (burst := self.demux_in.peek()):
            work += self._on_demux_burst(burst)
            self.demux_in.release(len(burst) // d.DESCRIPTOR_BYTES)
            if bursts is not None:
                bursts -= 1
        return work

    def _take_steered(self, until: int) -> int:
        """Take what ingress has sent, up to that index of its ring."""
        work = 0
        ring = self.ingress_in
        while (count := until - ring.cons_idx) > 0:
            burst = ring.peek(count)
            work += self.udp.on_steered(burst)
            ring.release(len(burst) // d.DESCRIPTOR_BYTES)
        return work

    def _on_demux_burst(self, burst: memoryview) -> int:
        count = 0
        for (
            kind, _flags, link, stride, gso_size, slot, off, length, _skip, number,
            seq, _ack, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            if kind == d.UDP_DATA:
                if aux & d.UDP_BEHIND:
                    self._take_steered(self.ingress_in.cons_idx + len(self.ingress_in))
                self.udp.to_host(
                    number, slot, off, length, stride, gso_size, guest_addr, remote_addr, ports, link
                )
            elif kind == d.UDP_CLOSE:
                self.udp.close(number)
            elif kind == d.DIAL_FAILED:
                self._dial_failed(number)
            elif kind == d.ICMP_ECHO:
                self.icmp.to_host(slot, off, length, guest_addr, remote_addr, ports, aux, link)
            elif kind == d.NAMED:
                self.guard.learn(guest_addr, remote_addr, aux, seq)
        return count

    def _dial_failed(self, number: int) -> None:
        """No guest answers under the dialled address: the host client sees its connection end."""
        flow = self.flows.get(number)
        if flow is not None:
            self._forget(flow, reset=False)

    def _dial(self, flow: Flow) -> None:
        if not self.dials.dial(flow):
            self._forget(flow, reset=False)

    def _give_up_dialling(self, now: float) -> None:
        for flow in self.dials.overdue(now):
            # Which shard has it is known when its guest has answered; the others do not know the number.
            for ring in self.tcp_out:
                ring.push(d.record(d.ABORT, flow=flow.number))
            self._forget(flow, reset=False)

    # --- host sockets -------------------------------------------------------------------

    def _on_event(self, flow: Flow, events: int) -> None:
        stream = flow.stream
        if flow.state == "CONNECTING":
            if not events & (ev.WRITE | ev.HANGUP | ev.ERROR):
                return
            error = host_tcp.finish(stream.sock)
            if error:
                self._connect_failed(flow.shard, flow.number, flow.asker, error)
                self._forget(flow, reset=False)
                return
            self._stands(flow)
        if events & _END_EVENTS and self._host_ended(flow):
            return
        if events & ev.WRITE:
            stream.writable = True
            self.dirty[flow] = None
        if events & _READ_EVENTS and not flow.read_finished:
            stream.readable = True
            self.ready[flow] = None
            self.worker.nudge(self.leads_to)

    def _host_ended(self, flow: Flow) -> bool:
        """The socket reports an end of both directions or an error; whether the flow broke by it.

        What the host sent before is read first, so an error with bytes behind it is left to read().
        """
        if flow.read_finished and host_tcp.finish(flow.stream.sock):
            self._broken(flow)
            return True
        if not flow.hung_up and not flow.stream.write_finished:
            flow.hung_up = True
            if flow.read_finished:
                self._tell(flow, d.SHUTDOWN, aux=d.SHUTDOWN_BOTH)
        return False

    def _flush(self, now: float) -> None:
        free = self.worker.free
        for flow in self.dirty:
            if flow.state not in _WRITING:
                continue
            try:
                taken = flow.stream.flush(free)
            except OSError:
                if flow.state == "OPEN":
                    self.reads.read_rest(flow)
                self._broken(flow)
                continue
            if taken:
                self.counts[_TO_HOST] += taken
                self._tell(flow, d.TAKEN, length=taken)
            if flow.state == "CLOSING" and flow.stream.write_finished:
                self._forget(flow, reset=False)
            elif flow.stream.queued_bytes:
                if flow.stream.queued_refs > self.max_flow_refs:
                    self.counts[_SPILLED] += flow.stream.spill(free)
                self.stalled.setdefault(flow, now)
                if flow.state == "CLOSING":
                    self._reset(self.closing.wait(flow, taken, now), _CLOSING_FULL)
            elif self.stalled:
                self.stalled.pop(flow, None)
        self.dirty.clear()

    def _spill_stalled(self, now: float) -> None:
        """Hosts that do not read must not hold the slots that everybody's frames come in."""
        while self.stalled:
            flow, since = next(iter(self.stalled.items()))
            if since + SPILL_AFTER_S > now:
                break
            del self.stalled[flow]
            self.counts[_SPILLED] += flow.stream.spill(self.worker.free)

    def on_released(self, source: str, tags: list[int]) -> None:
        """References of ours came home from source; each tag is the number of the flow that used one."""
        base = int(source[3:]) << 32 if source.startswith("tcp") else 0
        for number in tags:
            flow = self.flows.get(number if number & d.FLOW_FROM_EGRESS else base | number)
            if flow is not None:
                self.reads.came_home(flow)

    # --- ends -------------------------------------------------------------------------

    def _end_closing(self, now: float) -> None:
        """Reset what is over and has waited too long for its host, after a last try.

        A socket is said to be writable only when a good part of its buffer is free: a host that reads slowly
        may have taken some for all that.
        """
        for flow in self.closing.due(now):
            flow.stream.writable = True
            self.dirty[flow] = None
        self._flush(now)
        self._reset(self.closing.due(now), _CLOSING_STUCK)

    def _reset(self, flows: list[Flow], counter: int) -> None:
        for flow in flows:
            self.counts[counter] += 1
            self._forget(flow, reset=True)

    def _broken(self, flow: Flow) -> None:
        self.counts[_RESET] += 1
        self._tell(flow, d.ABORT)
        self._forget(flow, reset=True)

    def _forget(self, flow: Flow, *, reset: bool) -> None:
        stream = flow.stream
        stream.discard_queue(self.worker.free)
        if flow.state != "DIALLING":
            self.worker.unregister(stream.sock.fileno())
        flow.state = "DEAD"
        stream.readable = stream.writable = False
        self.reads.forget(flow)
        self.stalled.pop(flow, None)
        self.closing.remove(flow)
        self.dials.remove(flow)
        self.bound.closed(flow, connection=True)
        del self.flows[flow.key]
        if reset:
            host_tcp.reset(stream.sock)
        else:
            host_tcp.close(stream.sock)

    def _tell(self, flow: Flow, kind: int, *, length: int = 0, aux: int = 0) -> None:
        self.tcp_out[flow.shard].push(d.record(kind, flow=flow.number, length=length, aux=aux))

    # --- accepted connections, forwarded UDP ports -----------------------------------------

    def on_control(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Requests of listen: ``accepted`` and ``udp_forward`` (each with a socket), ``udp_unforward``."""
        match messages.request_of(message):
            case messages.Accepted() as ask:
                self._accepted(socket.socket(fileno=fds[0]), ask.addr, ask.port, ask.first)
                return {"ok": True}
            case messages.UdpForward() as ask:
                self.udp.forwarded.add(ask.key, socket.socket(fileno=fds[0]), ask.addr, ask.port)
                return {"ok": True}
            case messages.UdpUnforward() as ask:
                self.udp.remove_forward(ask.key)
                return {"ok": True}
        close_all(fds)
        return {"error": f"egress knows no request {message.get('op')!r}"}

    def _accepted(self, sock: socket.socket, addr: int, port: int, first: bytes) -> None:
        host_tcp.tune(sock)
        number = self.udp.next_number()
        flow = Flow(number, number, 0, HostStream(sock, self.slots), "DIALLING", self.shares.of(0))
        flow.guest = (addr, port)
        flow.stream.first = first
        self.flows[number] = flow
        self.counts[_ACCEPTED] += 1
        self._dial(flow)

    def close(self) -> None:
        """Reset what is open and give every reference back."""
        for flow in list(self.flows.values()):
            self._forget(flow, reset=True)
        self.udp.close_all()
        self.icmp.close()
        self.filler.retire()
        self.shares.retire()
