"""The ingress worker: guest links in and out (L1), the program's network card.

In: all that a link has goes into a slot with one system call, is cut into frames, and GRO
makes runs of the TCP segments. Out: TCP ranges get their headers and are cut into segments
(GSO), frames of demux go as they are; one gather call sends a burst. A ring entry is released when
its bytes are in the socket or copied, which is how its producer knows that the slot is free.

A guest that does not read: while it is the only guest its frames stay in the rings, which stops
their producers (backpressure). With other guests behind the same rings it must not stop those:
what it does not take in time is dropped and counted, as a full queue of a network card would.
"""

import socket
from time import monotonic
from typing import Final

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.offload import gro
from pipeline.engines.offload.gso import Buffer
from pipeline.engines.offload.gso_udp import UdpSegmenter
from pipeline.ipc import events as ev
from pipeline.ipc import messages
from pipeline.ipc.channel import close_all
from pipeline.ipc.ring import Consumer
from pipeline.links.base import Link, LinkClosed
from pipeline.links.entrance import Guest, Room
from pipeline.links.offload import OffloadLink
from pipeline.links.stream import StreamLink
from pipeline.records import descriptor as d
from pipeline.stages.ingress.capture import Capture
from pipeline.stages.ingress.datagrams import Datagrams
from pipeline.stages.ingress.doors import Doors
from pipeline.stages.ingress.fairness import Fairness
from pipeline.stages.ingress.offload import Card
from pipeline.stages.ingress.steering import Steering
from pipeline.stages.worker import Worker
from pipeline.topology import MAX_REFS
from pipeline.wire import ethernet, framing, offload, tcp, tcp_options
from pipeline.wire.framing import Framing

READS_A_STEP: Final = 4
"""Bursts read from one link before the results are published."""
FLUSH_BYTES: Final = 256 * 1024
"""Bytes gathered for one link before they are sent: also the most that a blocked link copies at once."""
MAX_BACKLOG: Final = 1024 * 1024
"""Copied bytes that may wait for a guest that does not read, while other guests do."""
DOORS_EVERY_S: Final = 0.05
"""How often a worker that never sleeps looks at the timers of entrances."""
MAX_LINKS: Final = 256

_LINK_EVENTS: Final = ev.READ | ev.WRITE | ev.READ_HANGUP | ev.EDGE
_WRITE_EVENTS: Final = ev.WRITE | ev.EDGE
_READ_EVENTS: Final = ev.READ | ev.READ_HANGUP | ev.HANGUP | ev.ERROR
_HANGUP_EVENTS: Final = ev.READ_HANGUP | ev.HANGUP | ev.ERROR

_BYTES_IN: Final = INDEX["link_bytes_from_guest"]
_FRAMES_IN: Final = INDEX["link_frames_from_guest"]
_BYTES_OUT: Final = INDEX["link_bytes_to_guest"]
_FRAMES_OUT: Final = INDEX["link_frames_to_guest"]
_CONNECTED: Final = INDEX["link_guest_connected"]
_DISCONNECTED: Final = INDEX["link_guest_disconnected"]
_BACKLOG_FULL: Final = INDEX["link_frame_dropped_backlog_full"]
_NO_NEIGHBOR: Final = INDEX["link_frame_dropped_no_neighbor"]
_OVERSIZED: Final = INDEX["link_frame_dropped_oversized"]
_PAUSED: Final = INDEX["link_reads_paused_no_slot"]
_LINKS: Final = INDEX["link_guests"]
_DATAGRAMS_OUT: Final = INDEX["udp_datagrams_to_guest"]


class Port:
    """One attached guest link and what is gathered for it."""

    __slots__ = ("framing", "gathered", "gathered_bytes", "guest", "link", "number", "offload", "segmenter")

    def __init__(self, number: int, guest: Guest) -> None:
        self.number = number
        self.guest = guest
        self.link: Link = guest.link
        self.framing: Framing | None = guest.framing
        self.segmenter = UdpSegmenter(guest.framing)
        self.offload: OffloadLink | None = None
        """The link, once its guest has agreed to offload."""
        self.gathered: list[Buffer] = []
        self.gathered_bytes = 0


class IngressStage:
    """All guest links of the daemon."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        self.slots = ports.arena.slots
        self.pool = worker.pool
        self.gateway_mac = config.gateway_mac
        self.steering = Steering(worker, config)
        self.neighbors = self.steering.neighbors
        self.sources: list[Consumer] = list(ports.rings_in.values())
        self.demux_in = ports.rings_in["demux"]
        self.ports: dict[int, Port] = {}
        self.readable: dict[Port, None] = {}
        self.more = False
        self.doors_look_at = 0.0
        self.datagrams = Datagrams(worker, config.mtu)
        self.ident = 0
        self.last_number = 0
        self.freed: list[int] = []
        self.card = Card(worker, config.mtu)
        self.fairness = Fairness(self.pool, self.counts, config.max_bad_frames_per_second)
        self.capture: Capture | None = None
        room = Room(self.pool, self.slots, config.mtu)
        self.doors = Doors(worker, room, self._add, self._hang_up)

    # --- the step ---------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Links -> rings, rings -> links. Returns the number of bursts and records."""
        work = 0
        self.more = False
        if now >= self.doors_look_at:
            self.doors_look_at = now + DOORS_EVERY_S
            if self.doors.deadline() <= now:
                self.doors.on_timer(now)
        if self.readable and self.fairness.may_read(now):
            for port in list(self.readable):
                if len(self.ports) == 1 or self.fairness.may_read_link(port.number, now):
                    if (count := self._read(port, now)) and port in self.readable:
                        # Behind those who found no room: it went to whoever was read first.
                        self.readable[port] = self.readable.pop(port)
                    work += count
        for ring in self.sources:
            work += self._send_all(ring)
        if not work:
            self.card.filler.rest()
            for port in self.ports.values():
                port.link.rest()
        return work

    def _send_all(self, ring: Consumer) -> int:
        """Everything in one ring, as long as the guests take it; the number of records done with."""
        work = 0
        while burst := ring.peek():
            if ring is not self.demux_in and self.demux_in.pending():
                # Published before: it may say where the guest is that this burst is for.
                work += self._send_all(self.demux_in)
            count = len(burst) // d.DESCRIPTOR_BYTES
            done = self._send_burst(burst)
            ring.release(done)
            work += done
            if done < count:
                break
        return work

    def deadline(self) -> float:
        """Of entrances, and of links that are not read; at once when one had more than one step's share."""
        self.doors_look_at = 0.0
        if self.more:
            return 0.0
        readable = [port.number for port in self.readable]
        return min(self.doors.deadline(), self.fairness.deadline(readable, many=len(self.ports) > 1))

    # --- guest -> rings -----------------------------------------------------------------

    def _read(self, port: Port, now: float) -> int:
        link = port.link
        for count in range(READS_A_STEP):
            if self.steering.room() <= 0 or self.pool.refs_out > MAX_REFS:
                return count
            try:
                burst = link.read_burst()
            except LinkClosed as error:
                self._detach(port, error)
                return count
            if burst is None:
                if link.starved:
                    # No slot: try again when one came home.
                    self.counts[_PAUSED] += 1
                else:
                    del self.readable[port]
                return count
            slot, frames = burst
            if link.vnet_len and port.offload is None:
                self._begin_offload(port)
            if link.drops:
                self._count_drops(link)
            if not frames:
                continue
            if port.offload is not None:
                items, drops = self.card.receive(port.number, port.offload, slot, frames)
            else:
                items, drops = gro.coalesce(self.slots[slot], frames, port.number, slot, link.verify)
                if items:
                    self.pool.ref(slot, len(items))
            if self.capture is not None:
                features = port.offload.features if port.offload is not None else 0
                self.capture.received(self.slots[slot], frames, link.vnet_len, features)
                self._end_capture()
            if self.fairness.scarce:
                items = self.fairness.without_data(items)
            self.steering.pass_on(self.slots[slot], items, now)
            if drops:
                self._count(drops)
                self.fairness.charge(port.number, sum(drops.values()), now)
            self.counts[_FRAMES_IN] += len(frames)
            self.counts[_BYTES_IN] += sum(length for _, length in frames)
        self.more = True
        return READS_A_STEP

    def _count(self, drops: dict[str, int]) -> None:
        for reason, dropped in drops.items():
            self.counts[INDEX[reason]] += dropped

    def _count_drops(self, link: Link) -> None:
        self._count(link.drops)
        link.drops = {}

    def _begin_offload(self, port: Port) -> None:
        """The guest's first record was ACCEPT, and what is behind it has virtio-net headers."""
        assert isinstance(port.link, OffloadLink)
        port.offload = port.link
        port.segmenter = self.card.begin(port.number, port.link)
        port.framing = offload.FRAMING

    # --- rings -> guest -----------------------------------------------------------------

    def _send_burst(self, burst: memoryview) -> int:
        """Send the records of one ring; returns how many are done with (fewer when the guest blocks)."""
        ports = self.ports
        only = len(ports) == 1
        if only:
            (port,) = ports.values()
            if port.link.blocked:
                return 0
        done = 0
        touched: dict[Port, None] = {}
        for (
            kind, flags, link, stride, mss, slot, off, length, skip, flow,
            seq, ack, wnd, ts_val, ts_ecr, guest_addr, remote_addr, port_pair, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            done += 1
            if kind == d.TCP_OUT:
                where = self.neighbors.get(guest_addr)
                target = ports.get(where.link) if where is not None else None
                if target is None or where is None:
                    self.counts[_NO_NEIGHBOR] += 1
                    continue
                if not self._may_gather(target):
                    continue
                options = _options(flags, stride, mss, slot, off, skip, flow, wnd, aux, ts_val, ts_ecr)
                payload = self.slots[slot][off : off + length] if length else b""
                self.ident = (
                    (self.ident + 1 + length // mss) & 0xFFFF if length else (self.ident + 1) & 0xFFFF
                )
                buffers = target.segmenter.frames(
                    where.header, remote_addr, guest_addr, port_pair & 0xFFFF, port_pair >> 16,
                    seq, ack, flags, link, options, payload, mss, self.ident,
                )  # fmt: skip
                target.gathered += buffers
                target.gathered_bytes += length + 128
                touched[target] = None
            elif kind == d.FRAME_OUT:
                self._gather_frame(link, slot, off, length, aux, flags, touched)
                if not flags & d.FRAME_BORROWED:
                    self.freed.append(slot)
            elif kind == d.UDP_TO_GUEST or kind == d.UDP_OUT:
                self.freed.append(slot)
                if kind == d.UDP_OUT:
                    header = ethernet.header(d.mac_of(seq, ack), self.gateway_mac, ethernet.TYPE_IPV4)
                    target = ports.get(link)
                else:
                    where = self.neighbors.get(guest_addr)
                    target = ports.get(where.link) if where is not None else None
                    header = where.header if where is not None else b""
                    self.counts[_DATAGRAMS_OUT] += flow if target is not None else 0
                if target is None:
                    self.counts[_NO_NEIGHBOR] += flow
                elif self._may_gather(target):
                    try:
                        target.gathered += self.datagrams.buffers(
                            target.segmenter, header, remote_addr, guest_addr, port_pair,
                            slot, off, stride, mss, length, flow,
                        )  # fmt: skip
                    except ValueError:
                        self.counts[_OVERSIZED] += flow
                        continue
                    target.gathered_bytes += length + 64 * flow
                    touched[target] = None
            elif kind == d.NEIGHBOR:
                self.steering.learn(guest_addr, (seq, ack), link)
            elif kind == d.MISBEHAVED:
                if link in ports:
                    self.fairness.charge(link, aux, monotonic())
            elif kind == d.NEIGHBOR_GONE:
                self.steering.forget(guest_addr)
            elif kind == d.STEER_UDP:
                self.steering.steer((guest_addr, remote_addr, port_pair), flow, aux)
            elif kind == d.UNSTEER_UDP:
                self.steering.unsteer((guest_addr, remote_addr, port_pair), flow)
            if touched and any(port.gathered_bytes >= FLUSH_BYTES for port in touched):
                self._flush(touched)
                touched.clear()
                if only and port.link.blocked:
                    break
        self._flush(touched)
        return done

    def _gather_frame(
        self, link: int, slot: int, off: int, length: int, but: int, flags: int, touched: dict[Port, None]
    ) -> None:
        frame = self.slots[slot][off : off + length]
        if link == d.ALL_LINKS:
            targets = [port for number, port in self.ports.items() if number != but]
        else:
            targets = [self.ports[link]] if link in self.ports else []
        for target in targets:
            if self._may_gather(target):
                try:
                    if flags & d.FRAME_VNET:
                        target.gathered += self.card.switched(
                            slot, off, length, target.offload is not None, target.segmenter
                        )
                    elif length > self.card.longest:
                        target.gathered += self.card.cut(frame, target.segmenter)
                    else:
                        target.gathered += target.segmenter.frame(frame)
                except ValueError:
                    self.counts[_OVERSIZED] += 1
                    continue
                target.gathered_bytes += length
                touched[target] = None

    def _may_gather(self, port: Port) -> bool:
        if port.link.blocked and len(self.ports) > 1 and port.link.backlog_bytes >= MAX_BACKLOG:
            self.counts[_BACKLOG_FULL] += 1
            return False
        return True

    def _flush(self, touched: dict[Port, None]) -> None:
        """Send what is gathered; what a socket does not take is copied by its link, so slots are free."""
        for port in touched:
            try:
                if port.gathered:
                    if self.capture is not None:
                        self.capture.sent(port.gathered, port.framing, port.link.vnet_len)
                        self._end_capture()
                    port.link.send(port.gathered)
                if port.link.drops:
                    self._count_drops(port.link)
            except LinkClosed as error:
                self._detach(port, error)
            port.gathered = []
            port.gathered_bytes = 0
            segmenter = port.segmenter
            self.counts[_FRAMES_OUT] += segmenter.frame_count
            self.counts[_BYTES_OUT] += segmenter.frame_bytes
            segmenter.frame_count = segmenter.frame_bytes = 0
            segmenter.reset()
        if self.freed:
            for slot in self.freed:
                self.worker.free(slot)
            self.freed.clear()

    # --- links ------------------------------------------------------------------------

    def _connect(self, sock: socket.socket, name: str, head: bytes, versions: str) -> None:
        """A guest that came over /connect. versions: of the offload extension, as in its request's header."""
        offered = OffloadLink(sock, self.pool, self.slots, head) if offload.choose(versions) else None
        link = offered or StreamLink(sock, framing.LE16, self.pool, self.slots, head)
        if self._add(Guest(link, framing.LE16, "connect", name)) and offered is not None:
            try:
                offered.offer()
            except LinkClosed as error:
                self._hang_up(offered, error)

    def _end_capture(self) -> None:
        """Forget a capture that has failed; the network goes on."""
        if self.capture is not None and self.capture.over:
            self.capture = None

    def _add(self, guest: Guest) -> bool:
        """Attach a link; False when there are too many, and it is closed."""
        link = guest.link
        if len(self.ports) >= MAX_LINKS:
            self.worker.log.warning("guest refused", reason=f"{MAX_LINKS} guests are attached")
            link.close()
            return False
        number = self._free_number()
        port = Port(number, guest)
        self.ports[number] = port
        self.readable[port] = None
        self.worker.register(link.fileno(), _LINK_EVENTS, lambda events: self._on_event(port, events))
        if link.write_fileno() != link.fileno():
            self.worker.register(
                link.write_fileno(), _WRITE_EVENTS, lambda events: self._on_writable(port, events)
            )
        self.counts[_CONNECTED] += 1
        self.counts[_LINKS] = len(self.ports)
        self.steering.link_up(number)
        self.worker.log.info("guest connected", link=number, protocol=guest.protocol, peer=guest.peer)
        return True

    def _hang_up(self, link: Link, error: LinkClosed) -> None:
        for port in list(self.ports.values()):
            if port.link is link:
                self._detach(port, error)

    def _free_number(self) -> int:
        while True:
            self.last_number = self.last_number % (d.ALL_LINKS - 1) + 1
            if self.last_number not in self.ports:
                return self.last_number

    def _on_event(self, port: Port, events: int) -> None:
        if events & ev.WRITE and port.link.blocked and not self._flush_link(port):
            return
        if events & _READ_EVENTS:
            port.link.short_is_all = not events & _HANGUP_EVENTS
            self.readable[port] = None

    def _on_writable(self, port: Port, events: int) -> None:
        """The other descriptor of a link that has two."""
        if events & _HANGUP_EVENTS:
            self._detach(port, LinkClosed("cannot write: the reader is gone"))
        elif port.link.blocked:
            self._flush_link(port)

    def _flush_link(self, port: Port) -> bool:
        try:
            port.link.flush()
        except LinkClosed as error:
            self._detach(port, error)
            return False
        return True

    def _detach(self, port: Port, error: LinkClosed) -> None:
        link = port.link
        if self.ports.get(port.number) is not port:
            return
        if error.reason:
            self.counts[INDEX[error.reason]] += 1
        self._count(link.drops)
        self.worker.unregister(link.fileno())
        if link.write_fileno() != link.fileno():
            self.worker.unregister(link.write_fileno())
        link.close()
        self.readable.pop(port, None)
        self.fairness.forget(port.number)
        del self.ports[port.number]
        self.counts[_DISCONNECTED] += 1
        self.counts[_LINKS] = len(self.ports)
        self.steering.link_down(port.number)
        self.doors.on_left(port.number, port.guest, error)

    def on_control(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Requests of the supervisor.

        ``attach``: a stream that was taken over by /connect, with the bytes behind its head.
        ``open``: sockets on which guests come in, see ingress_doors.
        ``capture``: a file with the head of a capture; every frame is written to it from now on.
        """
        match messages.request_of(message):
            case messages.Attach() as ask if fds:
                self._connect(socket.socket(fileno=fds[0]), ask.name or "", ask.head, ask.offload or "")
                return {}
            case messages.Open() if fds:
                return self.doors.open(message, fds)
            case messages.Capture() if fds:
                self.capture = Capture(self.worker, fds[0], self.card.mtu)
                return {}
        close_all(fds)
        return {"error": f"ingress knows no request {message.get('op')!r}"}

    def close(self) -> None:
        """Close all links and entrances."""
        self.doors.close()
        for port in list(self.ports.values()):
            self._detach(port, LinkClosed("the daemon stops"))
        if self.capture is not None:
            self.capture.close()
        self.card.filler.retire()


def _options(
    flags: int, bits: int, mss: int, slot: int, off: int, skip: int, flow: int, wnd: int, aux: int,
    ts_val: int, ts_ecr: int,
) -> bytes:  # fmt: skip
    """The TCP options that a TCP_OUT record describes."""
    has_ts = bool(bits & d.OUT_TIMESTAMPS)
    if flags & tcp.SYN:
        shift = bits >> d.OUT_WINDOW_SCALE_SHIFT & 15 if bits & d.OUT_WINDOW_SCALE else -1
        sack_permitted = bool(bits & d.OUT_SACK_PERMITTED)
        return tcp_options.build_syn(mss, shift, sack_permitted, has_ts, ts_val, ts_ecr)
    blocks = bits >> d.OUT_SACK_SHIFT & 3
    if not blocks:
        return tcp_options.build(has_ts, ts_val, ts_ecr) if has_ts else b""
    sack = ((skip, flow), (wnd, aux), (slot, off))[:blocks]
    return tcp_options.build(has_ts, ts_val, ts_ecr, sack)
