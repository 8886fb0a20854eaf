"""From rings to guests: makes frames of records. One gather call for each link sends the frames of a burst.

A ring entry is released when its bytes are in the socket, or copied. That is how its producer knows that the
slot is free.

If the only link does not take its frames, its records stay in the rings. That stops their producers
(backpressure). If there are other links on the same rings, it must not stop those. Then frames that do not
fit into its backlog are dropped and counted, as with the full queue of a network card.
"""

from time import monotonic
from typing import Final

from pipeline.config.model import Config
from pipeline.counter_block import add
from pipeline.counters import INDEX
from pipeline.engines.offload.gso import Buffer
from pipeline.ipc.ring import Consumer
from pipeline.links.base import LinkClosed
from pipeline.records import kinds
from pipeline.records.flows import Ends
from pipeline.records.frames import ALL_LINKS, Dropped, FrameOut, Misbehaved
from pipeline.records.guests import Neighbor, NeighborGone, Work
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.run import Run
from pipeline.records.tcp import TcpOut
from pipeline.records.udp import SteerUdp, UdpOut, UdpToGuest, UnsteerUdp
from pipeline.stages.ingress.apart import Apart
from pipeline.stages.ingress.datagrams import Datagrams
from pipeline.stages.ingress.live import Captures
from pipeline.stages.ingress.offload import VnetOffload
from pipeline.stages.ingress.ports import Port, Ports
from pipeline.stages.ingress.steering import Steering
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet, ipv4

FLUSH_BYTES: Final = 256 * 1024
"""Bytes gathered for one link before they are sent. A blocked link copies no more at once."""
_SEGMENT_COST: Final = 128
_DATAGRAM_COST: Final = 64
"""Bytes that are counted for the headers of a TCP range, and of a datagram."""

_BACKLOG_FULL: Final = INDEX["link_frame_dropped_backlog_full"]
_NO_NEIGHBOR: Final = INDEX["link_frame_dropped_no_neighbor"]
_OVERSIZED: Final = INDEX["link_frame_dropped_oversized"]
_DATAGRAMS_OUT: Final = INDEX["udp_datagrams_to_guest"]


class Transmitter:
    """Empties the rings to ingress."""

    def __init__(
        self,
        worker: Worker,
        config: Config,
        ports: Ports,
        steering: Steering,
        vnet: VnetOffload,
        captures: Captures,
        apart: Apart | None = None,
    ) -> None:
        self._worker = worker
        self._counts = worker.counts
        self._slots = worker.ports.arena.slots
        self._ports = ports
        self._steering = steering
        self._vnet = vnet
        self._capture = captures.file
        self._live = captures.live
        self._apart = apart
        self._datagrams = Datagrams(worker, config.network.mtu)
        self._rings: list[Consumer] = list(worker.ports.rings_in.values())
        self._from_demux = worker.ports.rings_in["demux"]
        self._ident = 0
        """The last IPv4 identification of a TCP segment."""
        self._needs_flush: dict[Port, None] = {}
        self._is_full = False
        """Whether FLUSH_BYTES are gathered for a port."""
        self._used: list[int] = []
        """Slots to be returned when the gathered frames have been sent."""

    def slots_held(self) -> list[int]:
        """Slots to be returned when the gathered frames have been sent."""
        return list(self._used)

    def send(self) -> int:
        """Send what is in the rings, as long as the links take it. Returns the number of records done."""
        work = 0
        for ring in self._rings:
            work += self._send_ring(ring)
        return work

    def _send_ring(self, ring: Consumer) -> int:
        work = 0
        while burst := ring.peek():
            if ring is not self._from_demux and self._from_demux.pending():
                # Demux may have reported the MAC and link that this burst needs. It published that before.
                work += self._send_ring(self._from_demux)
            count = len(burst) // RECORD_BYTES
            done = self._send_burst(burst)
            ring.release(done)
            work += done
            if done < count:
                break
        return work

    def _send_burst(self, burst: memoryview) -> int:
        """Send the records of one ring. Returns how many are done: fewer if the only link is blocked."""
        ports = self._ports.by_number
        alone = next(iter(ports.values())) if len(ports) == 1 else None
        if alone is not None and alone.link.blocked:
            self._ports.await_room(alone)
            return 0
        done = 0
        for at in range(0, len(burst), RECORD_BYTES):
            done += 1
            kind = burst[at]
            if kind == kinds.TCP_OUT:
                self._on_segments(TcpOut.unpack(burst, at))
            elif kind == kinds.UDP_TO_GUEST:
                self._on_datagrams_to_guest(UdpToGuest.unpack(burst, at))
            elif kind == kinds.FRAME_OUT:
                self._on_frame(FrameOut.unpack(burst, at))
            elif kind == kinds.UDP_OUT:
                self._on_datagrams_out(UdpOut.unpack(burst, at))
            else:
                self._on_notice(kind, burst, at)
            if self._is_full:
                self._flush()
                if alone is not None and alone.link.blocked:
                    break
        self._flush()
        return done

    # --- frames ---------------------------------------------------------------------------

    def _on_segments(self, out: TcpOut) -> None:
        """TCP_OUT."""
        ends = Ends.of(out.key)
        where = self._steering.neighbors.get(ends.guest_addr)
        target = self._ports.by_number.get(where.link) if where is not None else None
        if target is None or where is None:
            self._counts[_NO_NEIGHBOR] += 1
        elif self._may_gather(target):
            if self._apart is not None:
                ends = self._apart.own_ends(where.link, out.key)
            length = out.length
            payload: memoryview | bytes = b""
            self._ident = self._ident + 1 & 0xFFFF
            if length:
                payload = self._slots[out.slot][out.off : out.off + length]
                self._ident = self._ident + length // out.mss & 0xFFFF
            buffers = target.segmenter.segments(where.header, ends, out, payload, self._ident)
            self._gather(target, buffers, length + _SEGMENT_COST)
            if self._live.passing:
                self._live.gathered(target, buffers, ipv4.PROTO_TCP, ends.key())

    def _on_datagrams_to_guest(self, out: UdpToGuest) -> None:
        """UDP_TO_GUEST: ingress looks up the guest's MAC and link."""
        ends = Ends.of(out.key)
        where = self._steering.neighbors.get(ends.guest_addr)
        target = self._ports.by_number.get(where.link) if where is not None else None
        if target is not None:
            add(self._counts, _DATAGRAMS_OUT, out.piece_count())
            if self._apart is not None:
                ends = self._apart.own_ends(target.number, out.key)
        self._on_datagrams(target, where.header if where is not None else b"", ends, out)

    def _on_datagrams_out(self, out: UdpOut) -> None:
        """UDP_OUT: demux names the guest's MAC and link."""
        ends, mac = Ends.of(out.key), out.mac
        if self._apart is not None:
            ends, mac = self._apart.own_ends(out.link, out.key), self._apart.own_mac(out.link, mac)
        header = ethernet.header(mac, self._steering.sender_on(out.link), ethernet.type_of(ends.guest_addr))
        self._on_datagrams(self._ports.by_number.get(out.link), header, ends, out)

    def _on_datagrams(self, target: Port | None, eth_header: bytes, ends: Ends, run: Run) -> None:
        """Datagrams with a known MAC and link: UDP_OUT, and UDP_TO_GUEST after the look-up."""
        self._used.append(run.slot)
        count = run.piece_count()
        if target is None:
            self._counts[_NO_NEIGHBOR] += count
        elif self._may_gather(target):
            try:
                buffers = self._datagrams.buffers(target.segmenter, eth_header, ends, run)
            except ValueError:
                self._counts[_OVERSIZED] += count
                return
            self._gather(target, buffers, run.length + _DATAGRAM_COST * count)
            if self._live.passing:
                self._live.gathered(target, buffers, ipv4.PROTO_UDP, ends.key())

    def _on_frame(self, out: FrameOut) -> None:
        """FRAME_OUT."""
        if not out.borrowed:
            self._used.append(out.slot)
        ports = self._ports.by_number
        apart = self._apart
        asked = 0
        if apart is not None and out.link == ALL_LINKS:
            asked = apart.link_asked(self._slots[out.slot][out.off : out.off + out.length])
        if asked:
            targets = [ports[asked]] if asked in ports else []
        elif out.link == ALL_LINKS:
            targets = [port for number, port in ports.items() if number != out.except_link]
        else:
            targets = [ports[out.link]] if out.link in ports else []
        targets = [port for port in targets if self._may_gather(port)]
        if not targets:
            return
        # A frame that is too long is cut once for all targets.
        frames = self._vnet.frames(out)
        for target in targets:
            made = frames
            if apart is not None:
                made = [apart.frame_for(target.number, frame) for frame in frames]
            try:
                buffers = self._vnet.buffers(out, made, target.segmenter)
            except ValueError:
                self._counts[_OVERSIZED] += 1
                continue
            self._gather(target, buffers, out.length)
            if self._live.passing:
                self._live.gathered(target, buffers, 0, b"")

    def _may_gather(self, port: Port) -> bool:
        """Whether the port takes another frame. If not, the frame is counted as dropped."""
        if port.link.blocked and len(self._ports.by_number) > 1 and port.is_full():
            self._counts[_BACKLOG_FULL] += 1
            return False
        return True

    def _gather(self, port: Port, buffers: list[Buffer], size: int) -> None:
        """Buffers of about size bytes, all of one record, go out with the next flush of the port."""
        port.gather(buffers, size)
        self._needs_flush[port] = None
        if port.gathered_bytes >= FLUSH_BYTES:
            self._is_full = True

    def _flush(self) -> None:
        """Send what is gathered. A link copies what its socket does not take, so the slots are free."""
        self._is_full = False
        if self._live.passing:
            self._live.flush()
        shares = self._ports.shares
        for port in self._needs_flush:
            try:
                length = port.flush(self._capture)
                if port.link.blocked:
                    self._ports.await_room(port)
                if shares.several:
                    shares.credit(port.guest_number, length)
            except LinkClosed as error:
                self._ports.detach(port, error)
        self._needs_flush.clear()
        for slot in self._used:
            self._worker.free(slot)
        self._used.clear()

    # --- what other workers report ----------------------------------------------------------

    def _on_notice(self, kind: int, burst: memoryview, at: int) -> None:
        """The rules of steering, and frames that other workers dropped."""
        steering = self._steering
        if kind == kinds.NEIGHBOR:
            neighbor = Neighbor.unpack(burst, at)
            steering.learn(neighbor.guest_addr, neighbor.mac, neighbor.link)
        elif kind == kinds.NEIGHBOR_GONE:
            steering.forget(NeighborGone.unpack(burst, at).guest_addr)
        elif kind == kinds.STEER_UDP:
            steered = SteerUdp.unpack(burst, at)
            steering.steer(steered.key, steered.flow, steered.egress)
        elif kind == kinds.UNSTEER_UDP:
            over = UnsteerUdp.unpack(burst, at)
            steering.unsteer(over.key, over.flow)
        elif kind == kinds.MISBEHAVED:
            misbehaved = Misbehaved.unpack(burst, at)
            port = self._ports.by_number.get(misbehaved.link)
            if port is not None:
                self._ports.charge(port, misbehaved.frames, monotonic())
        elif kind == kinds.DROPPED:
            dropped = Dropped.unpack(burst, at)
            self._live.dropped(dropped)
            self._used.append(dropped.slot)
        elif kind == kinds.WORK:
            done = Work.unpack(burst, at)
            port = self._ports.by_number.get(done.link)
            if port is not None:
                self._ports.shares.charge(port.guest_number, done.nanoseconds * 1e-9, monotonic())
