"""Plays ingress with its guests. The TCP of these guests is our own engine.

A guest's connection (GuestStream) uses a Connection of the pipeline's engine. Its "host" is the test. What it
sends becomes frames in a slot, and GRO makes records of them, as in ingress. Records of demux and tcp come
back. Their bytes are copied before their ring entry is released.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.engines.offload import gro
from pipeline.engines.tcp import actions
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection, opens, reset_for
from pipeline.engines.tcp.segment import Segment
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.frames import ALL_LINKS, FrameOut
from pipeline.records.guests import Neighbor, NeighborGone
from pipeline.records.kinds import NO_SLOT
from pipeline.records.run import Run
from pipeline.records.tcp import TcpOut
from pipeline.records.udp import SteerUdp, UdpOut, UdpToGuest, UnsteerUdp
from pipeline.stages.ingress.steering import Steering
from pipeline.stages.losses import Losses
from pipeline.stages.worker import Worker
from pipeline.wire import arp, ethernet, icmp, ip, ipv4
from pipeline.wire.tcp import SYN
from tests.support.frames import GATEWAY_MAC, udp_frame
from tests.support.one_process import Neighbour, OneProcess
from tests.support.received import Received
from tests.support.segments import Pair, packets_of

GATEWAY: Final = ip.parse_ipv4("192.168.127.1")
HOST: Final = ip.parse_ipv4("192.168.127.254")
"""The guests' address for the host's 127.0.0.1."""
FIRST_PORT: Final = 30000
RANGES: Final = 16
_SLOT_FILL: Final = 60000
"""The most bytes of frames in one slot."""
_GAP: Final = 4

Key = tuple[int, int]
"""(remote address, guest port << 16 | remote port)."""


class Datagram(NamedTuple):
    """A datagram that a guest received."""

    src: int
    ports: int
    payload: bytes


class GuestStream:
    """A guest's end of one TCP connection."""

    def __init__(self, guest: "Guest", key: Key, conn: Connection) -> None:
        self.guest = guest
        self.key = key
        self.conn = conn
        self.received = bytearray()
        self.established = False
        self.eof = False
        """Whether the gateway's FIN has come."""
        self.failed = False
        """Whether it was reset, or could not be opened."""
        self.gone = False
        self.deaf = False
        """Whether everything that arrives is ignored, as if it were lost."""
        self.losing = 0
        """The number of next frames that are lost when they are sent."""
        self.reads = True
        """Whether the guest's program reads. If not, the window closes."""
        self._untaken = 0

    @property
    def port(self) -> int:
        """The guest's port."""
        return self.key[1] >> 16

    def send(self, payload: bytes) -> None:
        """Queue bytes. The connection need not be established."""
        self.conn.on_host_data(payload, 0, len(payload), self.guest.now)

    def finish(self) -> None:
        """End this half after all bytes that were sent."""
        self.conn.on_host_eof(self.guest.now)

    def reset(self) -> None:
        """Reset the connection."""
        self.conn.on_host_reset(self.guest.now)

    def say(self, flags: int, *, back: int = 0) -> None:
        """Send a segment without data, past the engine. back: bytes before the next sequence number."""
        conn = self.conn
        seq = conn.snd_nxt - back & 0xFFFFFFFF
        out = actions.Outgoing(seq, flags, (conn.rcv_nxt & 0xFFFFFFFF, 500, 0, 0, False, (), 0))
        self.guest.transmit(self.key, out)

    def read(self) -> None:
        """Let the program read again."""
        self.reads = True
        self.conn.on_taken(self._untaken, self.guest.now)
        self._untaken = 0

    def arrive(self, segment: Segment) -> None:
        """Handle a range from the gateway."""
        if not self.deaf:
            self.conn.on_segment(segment, self.guest.now)

    def pump(self) -> bool:
        """Let the engine act and send until it is idle. Returns whether it did anything."""
        conn, now = self.conn, self.guest.now
        if conn.deadline() <= now:
            conn.on_timer(now)
        worked = False
        while True:
            found = conn.take_actions()
            outs = conn.transmit(now, RANGES) if conn.wants_transmit else []
            if not found and not outs:
                return worked
            worked = True
            for action in found:
                self._act(action)
            for out in outs:
                self.guest.transmit(self.key, out)

    def _act(self, action: actions.Action) -> None:
        if isinstance(action, actions.Deliver):
            assert isinstance(action.buf, bytes)
            self.received += action.buf[action.skip : action.skip + action.length]
            if self.reads:
                self.conn.on_taken(action.length, self.guest.now)
            else:
                self._untaken += action.length
        elif isinstance(action, actions.Connect):
            self.conn.on_connected(self.guest.now)
        elif isinstance(action, actions.Established):
            self.established = True
        elif isinstance(action, actions.HostShutdown):
            self.eof = True
        elif isinstance(action, actions.HostReset):
            self.failed = True
        elif isinstance(action, actions.Gone):
            self.gone = True


class Guest:
    """One guest: a link with one MAC and one address."""

    def __init__(self, card: "Card", number: int, peer: int = 0) -> None:
        """number: of its link. Its address ends in number + 1. peer: the number of the guest, by default
        that of its link."""
        self.card = card
        self.link = number
        self.peer = peer or number
        self.mac = bytes((0x5A, 0x94, 0xEF, 0, 0, number))
        self.addr = GATEWAY + number
        self.to_gateway = ethernet.header(GATEWAY_MAC, self.mac, ethernet.TYPE_IPV4)
        self.config = TcpConfig()
        self.listens: set[int] = set()
        self.streams: dict[Key, GuestStream] = {}
        self.accepted: list[GuestStream] = []
        """Connections to ports on which it listens, oldest first."""
        self.datagrams: list[Datagram] = []
        self.errors: list[tuple[int, int]] = []
        """(type, code) of the ICMP errors that it received."""
        self.iss = 0xFFFFFFFF
        """The initial sequence number of its next connection. The first one wraps at once."""
        self.up = True
        self.mute = False
        """Whether all TCP segments for it are ignored, as if they were lost."""
        self._frames: list[bytes] = []
        self._port = FIRST_PORT
        card.steering.link_up(number, self.peer)

    @property
    def now(self) -> float:
        """The virtual time."""
        return self.card.process.now

    # --- what the test does -----------------------------------------------------------------

    def connect(self, port: int, remote: int = HOST, own_port: int = 0) -> GuestStream:
        """Begin a connection. own_port 0: use the next new port."""
        self._port += not own_port
        key = remote, (own_port or self._port) << 16 | port
        stream = self.streams[key] = GuestStream(
            self, key, Connection.active(self.config, self._next_iss(), self.now)
        )
        return stream

    def datagram(self, port: int, payload: bytes, remote: int = HOST, own_port: int = 5000) -> None:
        """Send a datagram."""
        header = self.to_gateway
        self.send(
            udp_frame(payload, sport=own_port, dport=port, src=self.addr, dst=remote, eth_header=header)
        )

    def send(self, *frames: bytes) -> None:
        """Send frames with the next breath."""
        self._frames += frames

    def leave(self) -> None:
        """Take the link down, with open connections."""
        self.up = False
        self.streams.clear()
        self._frames.clear()
        self.card.steering.link_down(self.link, self.peer)

    def replug(self, number: int) -> None:
        """Move to another link, with all open connections: the old link goes down."""
        self.card.steering.link_down(self.link, self.peer)
        self.link = self.peer = number
        self.card.by_link[number] = self
        self.card.steering.link_up(number, number)

    # --- frames -------------------------------------------------------------------------------

    def transmit(self, key: Key, out: actions.Outgoing) -> None:
        """Send a range of the engine as frames."""
        remote, ports = key
        pair = Pair(self.addr, remote, ports >> 16, ports & 0xFFFF)
        packets = packets_of(out, pair, _part)
        if (stream := self.streams.get(key)) is not None:
            lost = min(stream.losing, len(packets))
            stream.losing -= lost
            del packets[:lost]
        self._frames += [self.to_gateway + packet for packet in packets]

    def step(self) -> int:
        """Run the timers of connections, then send the frames. Returns how much was done."""
        work = sum([stream.pump() for stream in self.streams.values()])
        frames = self._frames
        while frames:
            count = size = 0
            for frame in frames:
                size += len(frame) + _GAP
                if size > _SLOT_FILL:
                    break
                count += 1
            if not self.card.receive(self.link, frames[:count]):
                break
            del frames[:count]
            work += 1
        return work

    def deadline(self) -> float:
        """The next deadline of its connections."""
        return min((stream.conn.deadline() for stream in self.streams.values()), default=float("inf"))

    # --- what comes ---------------------------------------------------------------------------

    def on_segment(self, key: Key, segment: Segment) -> None:
        """Handle a range for one of its ports."""
        if self.mute:
            return
        stream = self.streams.get(key)
        if stream is not None and not stream.gone and not stream.conn.accepts_reuse(segment):
            stream.arrive(segment)
        elif opens(segment.flags) and key[1] >> 16 in self.listens:
            conn = Connection.passive(self.config, segment, self._next_iss(), self.now)
            stream = self.streams[key] = GuestStream(self, key, conn)
            self.accepted.append(stream)
        elif (answer := reset_for(segment)) is not None:
            self.transmit(key, answer)

    def on_frame(self, frame: bytes) -> None:
        """Handle a frame: answer ARP, and keep ICMP errors."""
        if frame[12:14] == ethernet.TYPE_ARP.to_bytes(2, "big"):
            asked = arp.parse(frame, ethernet.HEADER_LEN, len(frame))
            if asked.op == arp.REQUEST and asked.tpa == self.addr:
                header = ethernet.header(asked.sha, self.mac, ethernet.TYPE_ARP)
                self.send(header + arp.build(arp.REPLY, self.mac, self.addr, asked.sha, asked.spa))
            return
        packet = ipv4.parse(frame, ethernet.HEADER_LEN, len(frame))
        assert packet.proto == ipv4.PROTO_ICMP, packet
        begin = ethernet.HEADER_LEN + packet.ihl
        message = icmp.parse(frame, begin, ethernet.HEADER_LEN + packet.total_len)
        self.errors.append((message.type, message.code))

    def _next_iss(self) -> int:
        iss, self.iss = self.iss, self.iss + 0x01000000 & 0xFFFFFFFF
        return iss


class Card(Neighbour):
    """Plays ingress, with any number of guests. It uses the real steering."""

    def __init__(self, worker: Worker, process: OneProcess) -> None:
        super().__init__(worker, process)
        self.guests: dict[int, Guest] = {}
        """The guests by address."""
        self.by_link: dict[int, Guest] = {}
        self.starved = 0
        """The number of times that a burst had to wait for a slot."""
        self.lost = 0
        """The number of records with datagrams for an address without a guest."""
        self.steering = Steering(worker, process.config)
        self.steers = True
        """Whether runs of known flows go past demux. If not, everything goes to demux."""

    def guest(self, number: int = 1, peer: int = 0) -> Guest:
        """Make a new guest on the link ``number``. peer: as for Guest."""
        guest = Guest(self, number, peer)
        self.guests[guest.addr] = self.by_link[number] = guest
        return guest

    def links(self) -> dict[int, int]:
        """The links that are up, each with the number of its guest."""
        return {guest.link: guest.peer for guest in self.guests.values() if guest.up}

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """Do as ingress does."""
        if losses.has("demux"):
            self.steering.on_demux_lost()
        for egress in losses.shards("egress"):
            self.steering.on_egress_lost(egress)
        self.steering.introduce(losses, self.links(), shared=False, drops=False)

    def step(self, now: float) -> int:
        """Handle records for guests, then let the guests send."""
        return super().step(now) + sum([guest.step() for guest in self.guests.values() if guest.up])

    def deadline(self) -> float:
        """The next deadline of all guests."""
        return min((guest.deadline() for guest in self.guests.values() if guest.up), default=float("inf"))

    def receive(self, link: int, frames: Sequence[bytes]) -> bool:
        """Put a burst from a link into a slot, and send it on after GRO. False if no slot is free now."""
        pool = self.worker.pool
        slot = pool.alloc()
        if slot == NO_SLOT:
            self.starved += 1
            return False
        view = self.slots[slot]
        places = []
        off = 256
        for frame in frames:
            view[off : off + len(frame)] = frame
            places.append((off, len(frame)))
            off += len(frame) + _GAP
        items, drops = gro.coalesce(view, places, link, slot)
        assert not drops
        pool.ref(slot, len(items))
        pool.unref(slot)
        if self.steers:
            self.steering.pass_on(view, items, self.process.now)
        else:
            for item in items:
                self.push("demux", item.pack())
        return True

    def on_record(self, record: Received) -> None:
        """Handle a record: it is for a guest, or for what ingress knows about guests."""
        fields = record.fields
        if isinstance(fields, TcpOut):
            # tcp keeps the reference.
            ends = Ends.of(fields.key)
            guest = self.guests.get(ends.guest_addr)
            if guest is not None and guest.up:
                guest.on_segment((ends.remote_addr, ports_of(ends)), self._segment(fields))
            return
        if isinstance(fields, UdpOut):
            self._datagrams(self.by_link[fields.link], fields, fields.key)
        elif isinstance(fields, UdpToGuest):
            addr = Ends.of(fields.key).guest_addr
            if addr in self.steering.neighbors:
                self._datagrams(self.guests[addr], fields, fields.key)
            else:
                self.lost += 1
        elif isinstance(fields, FrameOut):
            frame = bytes(self.slots[fields.slot][fields.off : fields.off + fields.length])
            everybody = fields.link == ALL_LINKS
            for guest in self.guests.values() if everybody else [self.by_link[fields.link]]:
                if guest.up and guest.link != fields.except_link:
                    guest.on_frame(frame)
        elif isinstance(fields, Neighbor):
            self.steering.learn(fields.guest_addr, fields.mac, fields.link)
        elif isinstance(fields, NeighborGone):
            self.steering.forget(fields.guest_addr)
        elif isinstance(fields, SteerUdp):
            self.steering.steer(fields.key, fields.flow, fields.egress)
        elif isinstance(fields, UnsteerUdp):
            self.steering.unsteer(fields.key, fields.flow)
        else:
            self.taken.append(record)
        self.give_back(record)

    def _datagrams(self, guest: Guest, run: Run, key: FlowKey) -> None:
        """Deliver datagrams to a guest, one after the other."""
        ends = Ends.of(key)
        for begin in range(0, max(run.length, 1), max(run.piece_size, 1)):
            length = min(run.piece_size, run.length - begin)
            piece = Run(run.slot, run.off, length, run.stride, run.piece_size, begin)
            payload = b"".join(piece.views(self.slots[run.slot]))
            guest.datagrams.append(Datagram(ends.remote_addr, ports_of(ends), payload))

    def _segment(self, out: TcpOut) -> Segment:
        """The segment that the guest's kernel would get from this TCP_OUT, after its own GRO."""
        syn = bool(out.flags & SYN)
        return Segment(
            out.seq,
            out.ack,
            out.flags,
            out.window,
            out.length,
            bytes(self.slots[out.slot][out.off :][: out.length]) if out.length else None,
            out.ts_val,
            out.ts_ecr,
            out.has_timestamps,
            out.sack,
            out.mss if syn else 0,
            out.window_scale if syn else -1,
            out.sack_permitted,
        )


def ports_of(ends: Ends) -> int:
    """Both ports in the form of a GuestStream's key."""
    return ends.guest_port << 16 | ends.remote_port


def _part(buf: object, off: int, length: int) -> bytes:
    assert isinstance(buf, bytes)
    return buf[off : off + length]
