"""Connections opened and closed in random ways for two virtual hours, through a light model of the TCP stage.

python -m tests.engines.tcp.churn [COUNT] opens COUNT connections and prints the rate. The flow table, the
timers and the slot accounting are those of pipeline/stages/tcp/stage.py in small; the guest and the
host are actors: they answer late or not at all, refuse, reset, vanish, close
first or second, open again with the same ports. Every segment may be lost. When the last one has
opened, time goes on until the model is idle: then no flow, no timer and no slot may be left.
"""

import heapq
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from pipeline.engines.tcp import actions, isn
from pipeline.engines.tcp.actions import Outgoing
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection, opens, reset_for
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.state import SYN_SENT, TIME_WAIT
from pipeline.engines.timing_wheel import TimingWheel
from pipeline.ipc.arena import Pool
from pipeline.wire.tcp import ACK, FIN, RST, SYN

MASK = 0xFFFFFFFF
HALF = 1 << 31
HOURS = 2
LOSS = 0.01
MIN_PORTS = 4000
BIRTHS_A_PORT = 10
"""Enough that ports are used again, also while the last connection is open or in TIME-WAIT."""
MAX_SEGMENT = 1400
SLOTS = 1 << 16
SECRET = b"sixteen secret b"


class Flow:
    """As in the stage."""

    __slots__ = ("conn", "guest", "host", "key", "timer_at")

    def __init__(self, conn: Connection, key: int, guest: "Guest", host: "Host") -> None:
        self.conn = conn
        self.key = key
        self.guest = guest
        self.host = host
        self.timer_at = float("inf")


class Host:
    """What the host side of a connection will do."""

    __slots__ = ("abort", "answer", "closes", "sent", "takes", "waits", "writes")

    def __init__(self, rng: random.Random) -> None:
        self.answer = rng.choices(("connected", "refused", "unreachable", "never"), (90, 5, 3, 2))[0]
        self.writes = rng.choice((0, 1, 1, 3))
        self.waits = rng.random() < 0.5
        """It ends its half only when the guest has."""
        self.closes = rng.random() < 0.3
        """It closes both halves at once."""
        self.takes = rng.random() < 0.97
        self.abort = rng.random() < 0.05
        self.sent = 0


class Guest:
    """The guest's side: enough of TCP to be an honest peer, until it vanishes or resets."""

    __slots__ = (
        "ack",
        "churn",
        "dead",
        "fin_at",
        "first",
        "isn",
        "key",
        "opens",
        "refuses",
        "seq",
        "size",
        "una",
        "vanishes",
        "waits",
        "wants_fin",
    )  # fmt: skip

    def __init__(self, churn: "Churn", key: int, opens_first: bool) -> None:
        rng = churn.rng
        self.churn = churn
        self.key = key
        self.opens = opens_first
        self.isn = rng.getrandbits(32)
        self.seq = self.una = self.isn
        self.ack = 0
        self.size = rng.choice((0, 1, 500, MAX_SEGMENT))
        self.waits = rng.random() < 0.5
        """It closes only when the host has."""
        self.refuses = not opens_first and rng.random() < 0.1
        self.vanishes = rng.choice((1, 2, 3, 5)) if rng.random() < 0.03 else 1 << 30
        """It vanishes after this number of our segments."""
        self.dead = False
        self.wants_fin = False
        self.fin_at = -1
        self.first = 0

    def send(self, flags: int, seq: int, length: int = 0, **fields: Any) -> None:
        """Let a segment travel to the engine."""
        self.churn.from_guest(self, flags, seq & MASK, length, fields)

    def syn(self, _: object = None) -> None:
        """Send a SYN, and again until an answer comes."""
        if self.dead or self.seq != self.isn:
            return
        self.send(SYN, self.isn, mss=1460, wscale=7, sack_permitted=True)
        self.first += 1
        if self.first < 4:
            self.churn.at(1 << self.first, self.syn)
        else:
            self.dead = True

    def arrive(self, out: Outgoing) -> None:
        """One of our ranges."""
        if self.dead:
            if not out.flags & RST:
                self.send(RST, out.ack if out.flags & ACK else 0)
            return
        self.vanishes -= 1
        if self.vanishes < 0:
            return
        rng = self.churn.rng
        if out.flags & RST:
            self.dead = True
            return
        if out.flags & SYN:
            self._opened(out)
            return
        if self.seq == self.isn:
            return
        if out.flags & ACK:
            moved = (out.ack - self.una) & MASK
            if 0 < moved <= (self.seq - self.una) & MASK:
                self.una = out.ack
        if out.length or out.flags & FIN:
            if out.seq == self.ack:
                self.ack = (self.ack + out.length + (1 if out.flags & FIN else 0)) & MASK
                if out.flags & FIN and self.waits:
                    self.churn.at(rng.random() * 5, self.finish)
            self.send(ACK, self.seq)
        if rng.random() < 0.005:
            self.dead = True
            self.send(RST, self.seq)

    def _opened(self, out: Outgoing) -> None:
        if self.refuses:
            self.dead = True
            self.send(RST | ACK, 0, ack=(out.seq + 1) & MASK)
            return
        self.ack = (out.seq + 1) & MASK
        if not out.flags & ACK:
            self.seq = self.una = (self.isn + 1) & MASK
            self.send(SYN | ACK, self.isn, mss=1460, wscale=7, sack_permitted=True)
        else:
            self.send(ACK, (self.isn + 1) & MASK)
        if self.first < 1000:
            self.first = 1000
            self.seq = self.una = (self.isn + 1) & MASK
            self.churn.at(self.churn.rng.random(), self.talk)

    def talk(self, _: object = None) -> None:
        """Send its data, then perhaps end."""
        rng = self.churn.rng
        if self.dead:
            return
        if self.size:
            self.seq = (self.seq + self.size) & MASK
            self.send(ACK, self.una, self.size)
            self.churn.at(1.0, self.repeat)
        # A guest that waits for the host does not wait for ever.
        self.churn.at(rng.choice((0.0, 1.0, 60.0, 600.0)) + (600.0 if self.waits else 0.0), self.finish)

    def repeat(self, _: object = None) -> None:
        """Send everything unacknowledged once more, until it is acknowledged."""
        left = (self.seq - self.una) & MASK
        if self.dead or left == 0 or self.vanishes <= 0:
            return
        fin = self.fin_at == self.seq
        flags = ACK | FIN if fin else ACK
        self.send(flags, self.una, left - fin)
        self.first += 1
        if self.first < 1012:
            self.churn.at(float(1 << min(self.first - 1000, 6)), self.repeat)
        else:
            self.dead = True

    def finish(self, _: object = None) -> None:
        """Our half ends."""
        if self.dead or self.wants_fin:
            return
        self.wants_fin = True
        left = (self.seq - self.una) & MASK
        self.seq = self.fin_at = (self.seq + 1) & MASK
        self.send(ACK | FIN, self.una, left)
        self.churn.at(1.0, self.repeat)


class Churn:
    """The clock, the stage's tables and the actors."""

    def __init__(self, count: int, seed: int = 1, hours: float = HOURS) -> None:
        self.rng = random.Random(seed)
        self.cfg = TcpConfig()
        self.now = 0.0
        self.pool = Pool(0, SLOTS)
        self.flows: dict[int, Flow] = {}
        self.timers: TimingWheel[Flow] = TimingWheel()
        self.events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self.serial = 0
        self.seen: Counter[str] = Counter()
        self.states: Counter[int] = Counter()
        self.peak = 0
        self.cause = ""
        """Why a host would be reset now."""
        self._ports = max(MIN_PORTS, count // BIRTHS_A_PORT)
        self._count = count
        self._spacing = hours * 3600 / count
        self.at(0.0, self._birth)

    # --- time -----------------------------------------------------------------------------

    def at(self, delay: float, call: Callable[[Any], None], argument: object = None) -> None:
        """Call call(argument) after delay seconds."""
        self.serial += 1
        heapq.heappush(self.events, (self.now + delay, self.serial, call, argument))

    def run(self) -> None:
        """Run until no event is left."""
        events, timers = self.events, self.timers
        while events or len(timers):
            if not events or timers.deadline() <= events[0][0]:
                self._expire()
                continue
            self.now, _, call, argument = heapq.heappop(events)
            call(argument)

    def _expire(self) -> None:
        self.now = max(self.now, self.timers.deadline())
        for flow in self.timers.advance(self.now):
            flow.timer_at = float("inf")
            if flow.conn.deadline() <= self.now:
                self.cause = "silence"
                flow.conn.on_timer(self.now)
            self._settle(flow)

    def _arm(self, flow: Flow) -> None:
        at = flow.conn.deadline()
        if at < flow.timer_at:
            flow.timer_at = at
            self.timers.schedule(flow, at)
            # Keep-alive timers are due in two hours: they would keep dead connections until then.
            assert len(self.timers) <= len(self.flows)

    # --- births ---------------------------------------------------------------------------

    def _birth(self, _: object) -> None:
        rng = self.rng
        key = rng.randrange(self._ports) << 1 | (rng.random() < 0.2)
        guest = Guest(self, key, not key & 1)
        if guest.opens:
            guest.syn()
        elif key not in self.flows:
            conn = Connection.active(self.cfg, self._isn(key), self.now)
            self._add(conn, key, guest)
            self._settle(self.flows[key])
        if self.seen["opened"] < self._count:
            self.at(rng.expovariate(1 / self._spacing), self._birth)

    def _isn(self, key: int) -> int:
        return isn.initial_sequence_number(SECRET, key >> 16, key & 0xFFFF, 2, 80, self.now)

    def _add(self, conn: Connection, key: int, guest: Guest) -> None:
        self.flows[key] = Flow(conn, key, guest, Host(self.rng))
        self.seen["opened"] += 1
        self.peak = max(self.peak, len(self.flows))

    def _remove(self, flow: Flow) -> None:
        self.states[flow.conn.state] += 1
        if self.flows.get(flow.key) is flow:
            del self.flows[flow.key]
        self.timers.cancel(flow)
        flow.timer_at = -1.0

    # --- the guest's side ---------------------------------------------------------------------

    def from_guest(self, guest: Guest, flags: int, seq: int, length: int, fields: dict[str, Any]) -> None:
        """A segment leaves the guest; some never arrive."""
        if self.rng.random() < LOSS:
            return
        ack = fields.pop("ack", guest.ack)
        stamp = int(self.now * 1000) & MASK
        buf = None
        if length:
            buf = self.pool.alloc()
            assert 0 <= buf < SLOTS, "no slot"
        segment = Segment(
            seq,
            ack,
            flags,
            1024 if not flags & SYN else 65535,
            length,
            buf,
            stamp,
            0,
            not flags & RST,
            **fields,
        )
        self.at(self.rng.random() * 0.01, self._segment, (guest, segment))

    def _segment(self, item: tuple[Guest, Segment]) -> None:
        guest, segment = item
        flow = self.flows.get(guest.key)
        if flow is not None and flow.conn.state == TIME_WAIT and flow.conn.accepts_reuse(segment):
            self._remove(flow)
            self.seen["reused"] += 1
            flow = None
        if flow is None:
            if not opens(segment.flags):
                if segment.buf is not None:
                    self._unref(segment.buf)
                answer = reset_for(segment)
                if answer is not None:
                    self.at(0.001, guest.arrive, answer)
                return
            conn = Connection.passive(self.cfg, segment, self._isn(guest.key), self.now)
            self._add(conn, guest.key, guest)
            flow = self.flows[guest.key]
        else:
            self.cause = "refusal" if flow.conn.state == SYN_SENT else "reset"
            reason = flow.conn.on_segment(segment, self.now)
            if reason:
                self.seen[reason] += 1
        self._settle(flow)

    # --- the host's side -----------------------------------------------------------------------

    def _unref(self, slot: object) -> None:
        assert isinstance(slot, int)
        self.pool.unref(slot)

    def _host(self, item: tuple[Flow, str, int]) -> None:
        flow, what, number = item
        conn, host = flow.conn, flow.host
        if self.flows.get(flow.key) is not flow:
            return
        if what == "connected":
            conn.on_connected(self.now)
        elif what == "refused":
            conn.on_connect_failed(self.now)
        elif what == "unreachable":
            conn.on_connect_failed(self.now, reset=False)
        elif what == "taken":
            conn.on_taken(number, self.now)
        elif what == "abort":
            conn.on_host_reset(self.now)
        elif what == "write":
            slot = self.pool.alloc()
            assert 0 <= slot < SLOTS, "no slot"
            conn.on_host_data(slot, 256, self.rng.choice((1, 100, 3000)), self.now)
        elif host.closes:
            conn.on_host_closed(self.now)
        else:
            conn.on_host_eof(self.now)
        self._settle(flow)

    def _plan_host(self, flow: Flow) -> None:
        """The handshake has finished: what the host will do and when."""
        rng, host = self.rng, flow.host
        for number in range(host.writes):
            self.at(number * rng.random(), self._host, (flow, "write", 0))
        if host.abort:
            self.at(rng.random() * 10, self._host, (flow, "abort", 0))
        # Later than the last write. A host that waits for the guest does so for ten minutes at most.
        self.at(rng.choice((3.0, 60.0)) + (600.0 if host.waits else 0.0), self._host, (flow, "eof", 0))

    # --- engine -> world -------------------------------------------------------------------------

    def _settle(self, flow: Flow) -> None:
        conn = flow.conn
        gone = self._act(flow)
        while conn.wants_transmit and not gone:
            for out in conn.transmit(self.now, 16):
                if self.rng.random() >= LOSS:
                    self.at(self.rng.random() * 0.01, flow.guest.arrive, out)
            gone = self._act(flow)
        if gone:
            self._remove(flow)
        else:
            self._arm(flow)

    def _act(self, flow: Flow) -> bool:
        gone = False
        host, rng = flow.host, self.rng
        for action in flow.conn.take_actions():
            if isinstance(action, actions.Deliver):
                self._unref(action.buf)
                if host.takes:
                    self.at(rng.random() * 0.1, self._host, (flow, "taken", action.length))
            elif isinstance(action, actions.Discard | actions.Release):
                self._unref(action.buf)
            elif isinstance(action, actions.Connect):
                if host.answer != "never":
                    self.at(rng.random(), self._host, (flow, host.answer, 0))
            elif isinstance(action, actions.Established):
                self._plan_host(flow)
            elif isinstance(action, actions.HostShutdown):
                self.at(rng.random(), self._host, (flow, "eof", 0))
            elif isinstance(action, actions.Gone):
                gone = True
            else:
                self.seen[f"ended by {self.cause}"] += 1
        return gone

    def check_empty(self) -> None:
        """Nothing is left."""
        assert not self.flows, [flow.conn.snapshot() for flow in list(self.flows.values())[:3]]
        assert not len(self.timers)
        assert not self.events
        assert self.pool.refs_out == 0, self.pool.refs_out
        assert self.pool.free_count == SLOTS
        assert not self.pool.audit()


def main() -> None:
    """See the module's docstring."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    began = time.monotonic()
    churn = Churn(count)
    churn.run()
    seconds = time.monotonic() - began
    churn.check_empty()
    print(f"{churn.seen['opened']} connections, {churn.peak} at once at most, {seconds:.1f} s")
    print(f"{churn.now / 3600:.1f} virtual hours")
    print(dict(churn.seen))


if __name__ == "__main__":
    main()
