"""Runs the TCP engine as a host on a tap, so that it talks to the kernel of the tap's namespace.

A thread reads and writes raw frames, answers ARP for its address, and keeps an engine connection for each
4-tuple. The pipeline is not used. The application of a connection sends a seeded pattern, ends its half
according to its Plan, and hashes what it gets. Frames may be lost in both directions.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import random
import select
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.engines.tcp import actions, isn, state
from pipeline.engines.tcp.actions import Outgoing
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection, opens, reset_for
from pipeline.engines.tcp.segment import Segment
from pipeline.system.tap import Tap
from pipeline.wire import arp, ethernet, ip
from pipeline.wire.errors import WireError
from tests.support.netns import Namespace, wait_for
from tests.support.segments import Pair, packets_of, segment_of
from tests.support.traffic import pattern

ENGINE_ADDR = "10.77.0.1"
KERNEL_ADDR = "10.77.0.2"
ENGINE_MAC = bytes.fromhex("5a94efe40c01")
KERNEL_MAC = bytes.fromhex("5a94efe40c02")
_PORTS = itertools.count(20000)
"""Each port is used only once in a process, since the kernel may still have it in TIME-WAIT."""
MAX_QUEUED = 8
"""The most handles of one connection that wait for the peer. A stage has such a limit too."""


@dataclass
class Plan:
    """What the application of a connection does."""

    send: int = 0
    seed: int = 1
    write: int = 65536
    """Bytes of one write."""
    eof_after_peer: bool = False
    """End our half only after the peer has ended its half."""
    reset_after: int = -1
    """Reset the connection after this many bytes have come; -1 for never."""
    stop_reading_after: int = -1
    """After this many bytes, do not read for ``pause`` seconds; -1 for never."""
    pause: float = 0.0
    refuse: bool = False
    """Act as if the host had refused the connection."""


@dataclass
class Outcome:
    """The result of a connection."""

    established: bool = False
    received: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    shutdown: bool = False
    reset: bool = False
    gone: bool = False
    sent_digest: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when both streams have ended in order, or on reset."""
    last: dict[str, object] = field(default_factory=dict)
    """The connection's last snapshot."""


def make_tap(namespace: Namespace) -> Tap:
    """Make tap0 in the namespace, with the kernel's address."""

    def inside() -> Tap:
        tap = Tap.open("tap0")
        tap.set_mac(KERNEL_MAC)
        tap.set_up()
        return tap

    tap = namespace.call(inside)
    namespace.ip("address", "add", f"{KERNEL_ADDR}/24", "dev", "tap0")
    return tap


class _Handle:
    """A buffer. It is compared by identity, so no two are equal."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Flow:
    def __init__(self, conn: Connection, pair: Pair, plan: Plan, outcome: Outcome) -> None:
        self.conn = conn
        self.pair = pair
        self.plan = plan
        self.outcome = outcome
        self.queued = 0
        self.arrived: set[_Handle] = set()
        self.sent = hashlib.sha256()
        self.source = pattern(plan.seed, plan.send)
        self.left = bytearray()
        self.exhausted = False
        self.eof = False
        self.untaken = 0
        self.resume_at = 0.0


class TapEngine:
    """The host on the tap. ``accepted`` has the outcomes of connections that the kernel opens."""

    def __init__(self, tap: Tap, cfg: TcpConfig, plan: Plan, loss: float = 0.0, seed: int = 1) -> None:
        self.cfg = cfg
        self.plan = plan
        self.accepted: list[Outcome] = []
        self.drops: Counter[str] = Counter()
        self.lost = 0
        self.failure: BaseException | None = None
        self.capture: list[tuple[float, str, Pair, Segment]] | None = None
        self._tap = tap
        self._loss = loss
        self._random = random.Random(seed)
        self._flows: dict[Pair, _Flow] = {}
        self._dials: list[tuple[int, Plan, Outcome]] = []
        self._wake_out, self._wake_in = os.pipe()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "TapEngine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        os.write(self._wake_in, b"x")
        self._thread.join(10)
        for fd in (self._wake_out, self._wake_in):
            os.close(fd)
        if self.failure is not None:
            raise self.failure

    def dial(self, port: int, plan: Plan) -> Outcome:
        """Open a connection to a port of the kernel."""
        outcome = Outcome()
        self._dials.append((port, plan, outcome))
        os.write(self._wake_in, b"d")
        return outcome

    def accept(self, index: int, seconds: float = 10.0) -> Outcome:
        """Wait for the index-th connection of the kernel. Returns its outcome."""
        wait_for(lambda: len(self.accepted) > index, "a SYN of the kernel", seconds, 0.002)
        return self.accepted[index]

    @property
    def flow_count(self) -> int:
        """The number of connections, without those in TIME-WAIT."""
        return sum(flow.conn.state != state.TIME_WAIT for flow in self._flows.values())

    # --- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._turn()
        except BaseException as error:
            self.failure = error
            for flow in self._flows.values():
                flow.outcome.over.set()

    def _turn(self) -> None:
        now = time.monotonic()
        due = min((self._due(flow) for flow in self._flows.values()), default=now + 0.2)
        readable, _, _ = select.select([self._tap.fd, self._wake_out], [], [], max(0.0, min(due - now, 0.2)))
        now = time.monotonic()
        if self._wake_out in readable:
            os.read(self._wake_out, 100)
        while self._dials:
            self._dial(*self._dials.pop(0), now)
        if self._tap.fd in readable:
            for _ in range(64):
                try:
                    frame = os.read(self._tap.fd, 65536)
                except BlockingIOError:
                    break
                self._frame(frame, now)
        for flow in list(self._flows.values()):
            if flow.conn.deadline() <= now:
                flow.conn.on_timer(now)
            self._pump(flow, now)

    def _due(self, flow: _Flow) -> float:
        due = flow.conn.deadline()
        return min(due, flow.resume_at) if flow.untaken else due

    def _dial(self, port: int, plan: Plan, outcome: Outcome, now: float) -> None:
        pair = Pair(ip.parse_ipv4(ENGINE_ADDR), ip.parse_ipv4(KERNEL_ADDR), next(_PORTS), port)
        conn = Connection.active(self.cfg, self._isn(pair, now), now)
        self._flows[pair] = _Flow(conn, pair, plan, outcome)

    def _isn(self, pair: Pair, now: float) -> int:
        return isn.initial_sequence_number(
            b"a test's secret", pair.dst, pair.dst_port, pair.src, pair.src_port, now
        )

    def _frame(self, frame: bytes, now: float) -> None:
        view = memoryview(frame)
        _, _, kind = ethernet.parse_header(view, 0, len(view))
        if kind == ethernet.TYPE_ARP:
            self._answer_arp(view)
            return
        if kind != ethernet.TYPE_IPV4:
            return
        if self._loss and self._random.random() < self._loss:
            self.lost += 1
            return
        try:
            pair, segment, _ = segment_of(view[ethernet.HEADER_LEN :], _Handle)
        except WireError as error:
            self.drops[error.reason] += 1
            return
        pair = pair.reversed()
        if self.capture is not None:
            self.capture.append((now, "in", pair, segment))
        flow = self._flows.get(pair)
        if flow is not None and flow.conn.accepts_reuse(segment):
            del self._flows[pair]
            flow = None
        if flow is None:
            flow = self._unknown(pair, segment, now)
            if flow is None:
                return
        else:
            if segment.buf is not None:
                flow.arrived.add(segment.buf)  # type: ignore[arg-type]
            reason = flow.conn.on_segment(segment, now)
            if reason:
                self.drops[reason] += 1

    def _unknown(self, pair: Pair, segment: Segment, now: float) -> _Flow | None:
        if not opens(segment.flags):
            answer = reset_for(segment)
            if answer is not None:
                self._send(pair, answer)
            return None
        conn = Connection.passive(self.cfg, segment, self._isn(pair, now), now)
        outcome = Outcome()
        self.accepted.append(outcome)
        flow = self._flows[pair] = _Flow(conn, pair, self.plan, outcome)
        if segment.buf is not None:
            flow.arrived.add(segment.buf)  # type: ignore[arg-type]
        return flow

    def _answer_arp(self, view: memoryview) -> None:
        with contextlib.suppress(WireError):
            asked = arp.parse(view, ethernet.HEADER_LEN, len(view))
            ours = ip.parse_ipv4(ENGINE_ADDR)
            if asked.op == arp.REQUEST and asked.tpa == ours:
                body = arp.build(arp.REPLY, ENGINE_MAC, ours, asked.sha, asked.spa)
                self._write(ethernet.header(asked.sha, ENGINE_MAC, ethernet.TYPE_ARP) + body)

    # --- a connection --------------------------------------------------------------------------

    def _pump(self, flow: _Flow, now: float) -> None:
        conn = flow.conn
        while True:
            self._act(flow, now)
            self._feed(flow, now)
            if not conn.wants_transmit:
                break
            for out in conn.transmit(now, 16):
                self._send(flow.pair, out)
        self._act(flow, now)
        outcome = flow.outcome
        if outcome.gone:
            self._flows.pop(flow.pair, None)
            assert not flow.arrived, "received handles are left"
            assert not flow.queued, "sent handles are left"
        if outcome.gone or conn.state == state.TIME_WAIT:
            outcome.last = conn.snapshot()
            outcome.sent_digest = flow.sent.hexdigest()
            outcome.over.set()

    def _feed(self, flow: _Flow, now: float) -> None:
        conn, plan = flow.conn, flow.plan
        if flow.untaken and now >= flow.resume_at:
            conn.on_taken(flow.untaken, now)
            flow.untaken = 0
        while flow.queued < MAX_QUEUED and not flow.exhausted and not flow.outcome.gone:
            while len(flow.left) < plan.write:
                block = next(flow.source, None)
                if block is None:
                    break
                flow.left += block
            if not flow.left:
                flow.exhausted = True
                break
            data = bytes(flow.left[: plan.write])
            del flow.left[: plan.write]
            flow.sent.update(data)
            flow.queued += 1
            conn.on_host_data(_Handle(data), 0, len(data), now)
        if flow.exhausted and not flow.eof and (flow.outcome.shutdown or not plan.eof_after_peer):
            flow.eof = True
            conn.on_host_eof(now)

    def _act(self, flow: _Flow, now: float) -> None:
        conn, outcome, plan = flow.conn, flow.outcome, flow.plan
        for action in conn.take_actions():
            if isinstance(action, actions.Deliver):
                handle = action.buf
                assert isinstance(handle, _Handle)
                flow.arrived.remove(handle)
                outcome.digest.update(handle.data[action.skip : action.skip + action.length])
                outcome.received += action.length
                if 0 <= plan.reset_after <= outcome.received:
                    conn.on_host_reset(now)
                elif 0 <= plan.stop_reading_after <= outcome.received:
                    if not flow.resume_at:
                        flow.resume_at = now + plan.pause
                    flow.untaken += action.length
                else:
                    conn.on_taken(action.length, now)
            elif isinstance(action, actions.Discard):
                assert isinstance(action.buf, _Handle)
                flow.arrived.remove(action.buf)
            elif isinstance(action, actions.Release):
                flow.queued -= 1
            elif isinstance(action, actions.Connect):
                if plan.refuse:
                    conn.on_connect_failed(now)
                else:
                    conn.on_connected(now)
            elif isinstance(action, actions.Established):
                outcome.established = True
            elif isinstance(action, actions.HostShutdown):
                outcome.shutdown = True
            elif isinstance(action, actions.HostReset):
                outcome.reset = True
            else:
                outcome.gone = True

    def _send(self, pair: Pair, out: Outgoing) -> None:
        header = ethernet.header(KERNEL_MAC, ENGINE_MAC, ethernet.TYPE_IPV4)
        for packet in packets_of(out, pair, _read):
            if self.capture is not None:
                self.capture.append((time.monotonic(), "out", pair, segment_of(packet)[1]))
            if self._loss and self._random.random() < self._loss:
                self.lost += 1
                continue
            self._write(header + packet)

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self._tap.fd, frame)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EAGAIN):
                raise


def _read(buf: object, off: int, length: int) -> bytes:
    assert isinstance(buf, _Handle)
    return buf.data[off : off + length]
