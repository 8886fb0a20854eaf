"""Two engines back to back over a link in virtual time that loses, doubles, reorders, delays and corrupts.

Bytes are never stored: byte i of a stream is a pure function of i, a handle names its stretch of
the stream (received: the positions it should hold), so a delivery is checked by arithmetic. Only a
frame that the link corrupts becomes bytes: one of its bits is flipped, and the wire layer must refuse it.
"""

import heapq
import random
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.engines.tcp import state
from pipeline.engines.tcp.actions import (
    Connect,
    Deliver,
    Discard,
    Established,
    Gone,
    HostReset,
    HostShutdown,
    Outgoing,
    Release,
)
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection, opens, reset_for
from pipeline.engines.tcp.segment import Segment
from pipeline.wire import ip
from pipeline.wire.errors import WireError
from pipeline.wire.tcp import SYN
from tests.support.segments import Pair, packets_of, segment_of

MAX_HANDLES = 16
"""Handles a host has queued at most, as the stage bounds them."""
_PAIR = Pair(ip.from_ipv4(0x0A000001), ip.from_ipv4(0x0A000002), 1000, 2000)


class Stretch(NamedTuple):
    """A handle: bytes [pos, pos + length) of the sender's stream; serial makes it unique."""

    serial: int
    pos: int
    length: int


class Handles:
    """Counts handles: every handle that is given out must come back exactly once."""

    def __init__(self) -> None:
        self.serial = 0
        self.out: dict[int, Stretch] = {}

    def new(self, pos: int, length: int) -> Stretch:
        self.serial += 1
        handle = Stretch(self.serial, pos, length)
        self.out[handle.serial] = handle
        return handle

    def back(self, handle: object) -> None:
        assert isinstance(handle, Stretch)
        assert handle.serial in self.out, f"{handle} came back twice"
        del self.out[handle.serial]


@dataclass
class Impairment:
    """Probabilities per frame; delay and jitter in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.001
    jitter: float = 0.0
    corrupt: float = 0.0


@dataclass
class Host:
    """The host side of one end: what it wants to send, and how it reads."""

    to_send: int = 0
    chunk: tuple[int, int] = (1, 65536)
    quota: int = 512 * 1024
    read_delay: tuple[float, float] = (0.0, 0.001)
    sent: int = 0
    eof: bool = False
    received: int = 0
    untaken: int = 0
    shutdown: bool = False
    reset: bool = False
    timed_out: bool = False
    """The engine reset it, because its guest did not answer."""
    gone: bool = False
    established: bool = False
    ends: bool = True
    """Whether it ends its half when everything is sent; False while more may come."""
    reads: bool = True
    stalled: int = 0
    """Bytes it would have taken, had it been reading."""
    aborts: bool = False
    """It has reset its connection."""


class End:
    """One engine with its host."""

    def __init__(self, sim: "Sim", name: str, cfg: TcpConfig, host: Host) -> None:
        self.sim = sim
        self.name = name
        self.cfg = cfg
        self.host = host
        self.conn: Connection | None = None
        self.handles = Handles()
        self.arrived = Handles()
        self.peer: End
        self.peer_base = 0
        self.base = 0
        self.frames_sent = 0
        self.peak = 0
        """Most handles held at once, those to send and those received."""

    def pump(self) -> None:
        """Run the engine until it is quiet: actions, host data, transmissions."""
        conn = self.conn
        if conn is None:
            return
        while True:
            self._do_actions()
            self._feed()
            if not conn.wants_transmit:
                break
            for out in conn.transmit(self.sim.now, 16):
                self._put_on_wire(out)
        self._do_actions()
        self.sim.arm(self, conn.deadline())

    def over(self) -> bool:
        return self.host.gone or self.host.reset

    def _feed(self) -> None:
        host, conn = self.host, self.conn
        assert conn is not None
        while (
            host.sent < host.to_send
            and len(self.handles.out) < MAX_HANDLES
            and not host.gone
            and not host.reset
        ):
            n = min(self.sim.rng.randint(*host.chunk), host.to_send - host.sent)
            conn.on_host_data(self.handles.new(host.sent, n), 0, n, self.sim.now)
            host.sent += n
        if host.sent == host.to_send and host.ends and not host.eof:
            host.eof = True
            conn.on_host_eof(self.sim.now)

    def _do_actions(self) -> None:
        assert self.conn is not None
        host, sim = self.host, self.sim
        for action in self.conn.take_actions():
            if isinstance(action, Deliver):
                handle = action.buf
                assert isinstance(handle, Stretch)
                assert action.length > 0
                assert action.skip + action.length <= handle.length
                assert handle.pos + action.skip == host.received, "not the next byte"
                assert not host.shutdown
                host.received += action.length
                host.untaken += action.length
                self.arrived.back(handle)
                sim.at(sim.now + sim.rng.uniform(*host.read_delay), self._take, action.length)
            elif isinstance(action, Discard):
                self.arrived.back(action.buf)
            elif isinstance(action, Release):
                self.handles.back(action.buf)
            elif isinstance(action, Connect):
                sim.at(sim.now + 0.001, self._connected, 0)
            elif isinstance(action, Established):
                host.established = True
            elif isinstance(action, HostShutdown):
                assert not host.shutdown
                host.shutdown = True
            elif isinstance(action, HostReset):
                host.reset = True
            elif isinstance(action, Gone):
                assert not host.gone
                host.gone = True

    def _connected(self, _: int) -> None:
        assert self.conn is not None
        self.conn.on_connected(self.sim.now)

    def _take(self, n: int) -> None:
        assert self.conn is not None
        if not self.host.reads:
            self.host.stalled += n
            return
        self.host.untaken -= n
        self.conn.on_taken(n, self.sim.now)

    def resume(self) -> None:
        """The host reads again, and takes what it would have taken meanwhile."""
        self.host.reads = True
        stalled, self.host.stalled = self.host.stalled, 0
        if stalled:
            self._take(stalled)

    def abort(self, _: object = None) -> None:
        """The host resets the connection."""
        if self.conn is not None and not self.over():
            self.host.aborts = True
            self.conn.on_host_reset(self.sim.now)

    def _put_on_wire(self, out: Outgoing) -> None:
        """Cut a range as GSO does and give each frame to the link; PSH and FIN are on the last."""
        sim = self.sim
        if out.flags & SYN:
            self.base = out.seq + 1
        if out.length == 0:
            self._frame(out, out.seq, 0, out.flags)
            return
        handle = out.buf
        assert isinstance(handle, Stretch)
        assert handle.serial in self.handles.out, "a released handle is sent"
        assert out.mss > 0
        done = 0
        while done < out.length:
            n = min(out.mss, out.length - done)
            last = done + n == out.length
            flags = out.flags if last else out.flags & ~0x09
            self._frame(out, (out.seq + done) & 0xFFFFFFFF, n, flags, handle.pos + out.off + done)
            done += n
        sim.bytes_on_wire += out.length

    def _frame(self, out: Outgoing, seq: int, n: int, flags: int, pos: int = 0) -> None:
        sim = self.sim
        self.frames_sent += 1
        options = (12 if out.has_ts else 0) + (4 + 8 * len(out.sack) if out.sack else 0)
        assert options <= 40
        assert n + options + 40 <= self.cfg.mtu, "frame over the MTU"
        frame = (seq, out, n, flags, pos)
        sim.frames += 1
        imp = sim.impairment
        rng = sim.rng
        if rng.random() < imp.loss or sim.now < sim.down_until:
            return
        if imp.corrupt and rng.random() < imp.corrupt:
            header = (out.ack, out.wnd, out.ts_val, out.ts_ecr, out.has_ts, out.sack, out.mss)
            syn = out.syn_wscale, out.syn_sack
            self._corrupt(Outgoing(seq, flags, header, out.buf, out.off, n, syn))
            return
        for _ in range(2 if rng.random() < imp.duplicate else 1):
            delay = imp.delay + rng.random() * imp.jitter
            if rng.random() < imp.reorder:
                delay += rng.random() * imp.delay * 3
            sim.at(sim.now + delay, self.peer.arrive, frame)

    def _corrupt(self, out: Outgoing) -> None:
        """One bit of the packet flips; the receiver must notice."""
        packet = bytearray(packets_of(out, _PAIR, lambda _buf, _off, length: bytes(length))[0])
        bit = self.sim.rng.randrange(8 * len(packet))
        packet[bit >> 3] ^= 1 << (bit & 7)
        try:
            segment_of(packet)
        except WireError:
            self.sim.corrupted += 1
        else:
            raise AssertionError(f"bit {bit} of {bytes(packet).hex()} was not missed")

    def _answer_reset(self, seg: Segment) -> None:
        """What a stage does with a segment without a connection."""
        out = reset_for(seg)
        if out is not None:
            self._frame(out, out.seq, 0, out.flags)

    def arrive(self, frame: tuple[int, Outgoing, int, int, int]) -> None:
        seq, out, n, flags, pos = frame
        buf = self.arrived.new(pos, n) if n else None
        seg = Segment(
            seq,
            out.ack,
            flags,
            out.wnd,
            n,
            buf,
            out.ts_val,
            out.ts_ecr,
            out.has_ts,
            out.sack,
            out.mss if flags & SYN else 0,
            out.syn_wscale,
            out.syn_sack,
        )
        now = self.sim.now
        if self.conn is None:
            if opens(flags):
                self.conn = Connection.passive(self.cfg, seg, self.sim.iss(), now)
            else:
                if buf is not None:
                    self.arrived.back(buf)
                self._answer_reset(seg)
                return
        elif self.host.gone:
            if buf is not None:
                self.arrived.back(buf)
            self._answer_reset(seg)
            return
        else:
            self.conn.on_segment(seg, now)
        self.peak = max(self.peak, len(self.arrived.out) + len(self.handles.out))


class Sim:
    """The clock, the events and the two ends; a opens towards b."""

    def __init__(
        self,
        seed: int,
        impairment: Impairment,
        cfg_a: TcpConfig,
        cfg_b: TcpConfig,
        host_a: Host,
        host_b: Host,
    ) -> None:
        self.rng = random.Random(seed)
        self.impairment = impairment
        self.now = 1000.0
        self.done = 0.0
        """When the last byte had been delivered on both sides."""
        self.frames = 0
        self.bytes_on_wire = 0
        self.corrupted = 0
        self.down_until = 0.0
        """Until then the link carries nothing."""
        self.events: list[tuple[float, int, object, object]] = []
        self.count = 0
        self.a = End(self, "a", cfg_a, host_a)
        self.b = End(self, "b", cfg_b, host_b)
        self.a.peer, self.b.peer = self.b, self.a
        self.armed = {"a": float("inf"), "b": float("inf")}
        self.a.conn = Connection.active(cfg_a, self.iss(), self.now)
        self.a.pump()

    def iss(self) -> int:
        """Just under the wrap, so that every run crosses it."""
        return (0xFFFFFFFF - self.rng.randrange(20000)) & 0xFFFFFFFF

    def at(self, when: float, call: object, arg: object) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, call, arg))

    def arm(self, end: End, when: float) -> None:
        if when != float("inf") and when < self.armed[end.name]:
            self.armed[end.name] = when
            self.at(when, self._timer, end)

    def _timer(self, end: object) -> None:
        assert isinstance(end, End)
        self.armed[end.name] = float("inf")
        if end.conn is not None:
            end.conn.on_timer(self.now)
            if any(isinstance(action, HostReset) for action in end.conn.agenda.actions):
                end.host.timed_out = True

    def run(self, until: float = 1e6, max_events: int = 2_000_000) -> None:
        """Run until both are gone, no event is left, or virtual time is up."""
        stop = self.now + until
        while self.events and max_events and self.events[0][0] <= stop:
            when, _, call, arg = heapq.heappop(self.events)
            self.now = max(self.now, when)
            call(arg)  # type: ignore[operator]
            self.a.pump()
            self.b.pump()
            max_events -= 1
            if not self.done and all(e.host.received == e.peer.host.to_send for e in (self.a, self.b)):
                self.done = self.now
            if self.a.host.gone and self.b.host.gone:
                break

    def advance(self, seconds: float) -> None:
        """Let time pass, whether anything happens or not."""
        end = self.now + seconds
        self.run(until=seconds)
        self.now = max(self.now, end)

    def check_bounded(self) -> None:
        """Neither end ever held more than its limits, and the clock has few events left to remember."""
        for end in (self.a, self.b):
            # Those delivered in one call are counted before they leave.
            assert end.peak <= MAX_HANDLES + 2 * end.cfg.max_reassembly_ranges + 1, end.peak
            assert len(end.handles.out) <= MAX_HANDLES

    def check_over(self) -> None:
        """After a reset: both ends are gone, and what had arrived was the front of what was sent."""
        for end in (self.a, self.b):
            state_now = end.conn.snapshot() if end.conn else None
            assert end.conn is None or end.host.gone, (end.name, state_now)
            assert end.host.received <= end.peer.host.sent
            assert not end.handles.out, (end.name, end.handles.out)
            assert not end.arrived.out, (end.name, end.arrived.out)

    def check_transferred(self) -> None:
        """Both streams arrived in full, both ends closed in order, all handles came home."""
        for end in (self.a, self.b):
            state_now = end.conn.snapshot() if end.conn else None
            assert not end.host.reset, (end.name, state_now)
            assert end.host.received == end.peer.host.to_send, (end.name, self.now, state_now)
            assert end.host.shutdown, (end.name, state_now)
            assert end.host.gone or (end.conn and end.conn.state == state.TIME_WAIT), (end.name, state_now)
            assert not end.handles.out, (end.name, end.handles.out)
            assert not end.arrived.out, (end.name, end.arrived.out)
