"""Runs several real stages in one process, without a fork. They breathe in turns, and the test sets the time.

Other workers are *played*: a Neighbour is at their ends of the rings. It collects the records that come, for
the test to look at, and pushes the records that the test wants. Host sockets are real ones on loopback. At
the end nothing may be left: see OneProcess.at_home().
"""

import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from pipeline.config import merge, options
from pipeline.config.model import Config
from pipeline.control.metrics.families import writers
from pipeline.counters import INDEX
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric, by_home
from pipeline.records import kinds
from pipeline.records.addresses import addr_bytes
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.run import Run
from pipeline.stages.demux.stage import DemuxStage
from pipeline.stages.egress.stage import EgressStage
from pipeline.stages.holdings import Holdings, count
from pipeline.stages.losses import Losses
from pipeline.stages.resolver.stage import ResolverStage
from pipeline.stages.tcp.stage import TcpStage
from pipeline.stages.worker import Message, Worker
from pipeline.topology import DEMUX, EGRESS, RESOLVER, TCP, Layout
from tests.support.configured import changed
from tests.support.pools import audit
from tests.support.received import Received

LIMIT = 15.0
"""Real seconds after which a test fails, if the kernel has not done something that it should do at once."""
MAX_TURNS = 20000
"""Turns after which a test fails, if there is still work."""
QUIET_TURNS = 3
"""Turns without work after which all is quiet. A reference on its way home is not work, but passes two
workers."""
LONGEST = 8000.0
"""Virtual seconds after which a silent guest has lost every connection (keep-alive: two hours)."""

_STAGES: Final[dict[str, Callable[..., Any]]] = {
    DEMUX: DemuxStage,
    TCP: TcpStage,
    EGRESS: EgressStage,
    RESOLVER: ResolverStage,
}


class Neighbour:
    """The stage of a played worker. It gives references back at once, unless ``keeps`` is set."""

    def __init__(self, worker: Worker, process: "OneProcess") -> None:
        self.worker = worker
        self.process = process
        self.slots = worker.ports.arena.slots
        self.taken: list[Received] = []
        """Records that have come and that take() has not returned yet."""
        self.deaf = False
        """Do not read the rings."""
        self.keeps = False
        """Keep references until give_back(), like a worker that still needs them."""

    def step(self, now: float) -> int:
        """Read all records from the rings."""
        count = 0
        for ring in () if self.deaf else self.worker.ports.rings_in.values():
            while burst := ring.peek():
                for at in range(0, len(burst), RECORD_BYTES):
                    count += 1
                    self.on_record(Received(bytes(burst[at : at + RECORD_BYTES])))
                ring.release(len(burst) // RECORD_BYTES)
        return count

    def on_record(self, record: Received) -> None:
        """Handle one record. Its ring entry is released afterwards."""
        self.taken.append(record)
        if not self.keeps:
            self.give_back(record)

    def deadline(self) -> float:
        """A neighbour has no timers."""
        return float("inf")

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        """There are no control messages."""
        return {"error": f"{self.worker.name} is played"}

    def on_released(self, source: str, tags: list[int]) -> None:
        """Slots of the played worker were freed."""

    def reload(self, config: Config) -> None:
        """A played worker has no settings."""

    def slots_held(self) -> Holdings:
        """The references of the records that it keeps."""
        found: Holdings = {}
        if self.keeps:
            count(found, [record.slot for record in self.taken if record.carries()])
        return found

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """A played worker has nothing of others."""

    def held(self) -> dict[str, int]:
        """Nothing is held for guests: what it keeps belongs to the test."""
        return {}

    def close(self) -> None:
        """Nothing to give back."""

    def push(self, peer: str, record: bytes) -> None:
        """Push a record to another worker. The next breath publishes it."""
        self.worker.ports.rings_out[peer].push(record)

    def take(self, *kinds: int) -> list[Received]:
        """Return and forget the records of these kinds. Without kinds: all records."""
        found = [record for record in self.taken if not kinds or record.kind in kinds]
        self.taken = [record for record in self.taken if kinds and record.kind not in kinds]
        return found

    def give_back(self, record: Received) -> None:
        """Give back the reference of a record. The tag is its flow, as in tcp."""
        if record.carries():
            self.worker.free(record.slot, record.flow if record.kind == kinds.TO_GUEST else 0)

    def data(self, record: Received) -> bytes:
        """The bytes of a record. Its reference must not have been given back yet."""
        if not record.length:
            return b""
        slot = self.slots[record.slot]
        if isinstance(record.fields, Run):
            return b"".join(record.fields.views(slot))
        return bytes(slot[record.off : record.off + record.length])

    def fill(self, payload: bytes, off: int = 256) -> int:
        """A new slot with payload at off, and one reference. AssertionError if no slot is free."""
        slot = self.worker.pool.alloc()
        assert slot != kinds.NO_SLOT, f"{self.worker.name} has no slot left"
        self.slots[slot][off : off + len(payload)] = payload
        return slot


class OneProcess:
    """A fabric with all its workers, real and played. It is a context manager."""

    def __init__(
        self,
        run: Sequence[str] = (DEMUX, TCP, EGRESS),
        *,
        slots: int = 64,
        tcp_workers: int = 1,
        egress_workers: int = 1,
        played: Mapping[str, Callable[[Worker, "OneProcess"], Neighbour]] | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        """run: roles whose stages are real. played: what plays a worker, by default a plain Neighbour.

        seed: the workers breathe in a random order, which changes each turn. settings: fields of Config's
        groups.
        """
        config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        self.config = changed(
            config, slots=slots, tcp_workers=tcp_workers, egress_workers=egress_workers, **settings
        )
        self.layout = Layout(slots, tcp_workers, egress_workers)
        self.fabric = Fabric.create(self.layout)
        self.run = run
        self.played = played or {}
        self.deaths = 0
        self.now = 1000.0
        self.rng = random.Random(seed) if seed is not None else None
        self.workers: dict[str, Worker] = {}
        self.stages: dict[str, Any] = {}
        self.neighbours: dict[str, Neighbour] = {}
        for name in self.layout.names:
            self._make(name)
        self.order = list(self.layout.names)
        """The order in which the workers breathe, unless a seed was given."""
        self._sockets: list[socket.socket] = []

    def _make(self, name: str, slots: Mapping[int, int] | None = None) -> None:
        """Make a worker. slots: what others hold of the slots of its dead predecessor."""
        role = self.layout.node(name).role
        worker = self.workers[name] = Worker(self.fabric.ports(name, self.deaths), None)
        if slots is not None:
            worker.pool.restore(slots)
        stage: Any
        if role in self.run:
            stage = self.stages[name] = _STAGES[role](worker, self.config)
        else:
            stage = self.neighbours[name] = self.played.get(name, Neighbour)(worker, self)
        worker.adopt(stage)

    # --- deaths -------------------------------------------------------------------------

    def references(self) -> dict[str, Holdings]:
        """The references to each home's slots that all workers hold."""
        return by_home(self.layout, [worker.slots_held() for worker in self.workers.values()])

    def references_counted(self) -> dict[str, Holdings]:
        """The same as the homes count them."""
        return {home: self.workers[home].pool.held() for home in self.layout.pools}

    def kill(self, *names: str, links: Mapping[int, int] | None = None) -> None:
        """Real workers die at once, between two breaths, and have successors, as in the daemon.

        links: the links that are up, by default none.
        """
        self.deaths += 1
        for name in names:
            dead = self.workers.pop(name)
            stage = self.stages.get(name)
            if isinstance(stage, EgressStage):
                # The kernel does that. What they push here is never published.
                stage.udp.close_all()
                stage.icmp.close()
                for flow in stage.connections.flows.by_key.values():
                    flow.stream.sock.close()
            if dead.poller is not None:
                dead.poller.close()
        held = by_home(self.layout, [worker.lose(names) for worker in self.workers.values()])
        self.fabric.bury(names)
        losses = Losses(names, links or {})
        for name in names:
            self._make(name, held.get(name))
        for name, worker in self.workers.items():
            if name not in names:
                worker.settle(losses, held.get(name), self.now)

    # --- time ---------------------------------------------------------------------------

    def breathe(self, *names: str) -> int:
        """Deliver socket events, then let each of these workers breathe. Returns how much was done."""
        work = 0
        for name in names:
            worker = self.workers[name]
            if worker.poller is not None:
                events = worker.poller.poll(0, 256)
                worker.poller.dispatch(events)
                work += len(events)
            work += worker.breathe(self.now)
        return work

    def turn(self) -> int:
        """Let all workers breathe once."""
        if self.rng is not None:
            self.rng.shuffle(self.order)
        return self.breathe(*self.order)

    def settle(self) -> None:
        """Run turns until there is no more work. No virtual time passes."""
        quiet = 0
        for _ in range(MAX_TURNS):
            done = self.turn() or any(stage.deadline() <= self.now for stage in self.stages.values())
            quiet = 0 if done else quiet + 1
            if quiet == QUIET_TURNS:
                return
        raise AssertionError(f"no rest after {MAX_TURNS} turns: {[*self.fabric.rings_in_use()]}")

    def advance(self, seconds: float) -> None:
        """Let virtual time pass from deadline to deadline, and settle at each."""
        end = self.now + seconds
        while True:
            self.settle()
            due = min(stage.deadline() for stage in (*self.stages.values(), *self.neighbours.values()))
            if due > end:
                break
            self.now = max(due, self.now + 1e-6)
        self.now = end
        self.settle()

    def until(self, happened: Callable[[], object], what: str = "it") -> None:
        """Settle until ``happened`` is true. The kernel, or a delay of ours, may need a while."""
        give_up = time.monotonic() + LIMIT
        while True:
            self.settle()
            if happened():
                return
            assert time.monotonic() < give_up, f"{what} did not happen"
            time.sleep(0.001)
            self.advance(0.005)

    # --- what tests ask -------------------------------------------------------------------

    def counter(self, worker: str, name: str) -> int:
        """The value of a counter of one worker."""
        return int(self.workers[worker].counts[INDEX[name]])

    def total(self, name: str) -> int:
        """The sum of a counter over all workers."""
        return sum(int(worker.counts[INDEX[name]]) for worker in self.workers.values())

    def held_by(self, name: str) -> dict[str, int]:
        """What a real stage holds for guests. See Stage.held."""
        return dict(self.stages[name].held())

    def accept(
        self, egress: str, addr: int, port: int, first: bytes = b"", *, unix: bool = False
    ) -> socket.socket:
        """Connect a host client to a forwarded port, as listen would accept it. Returns the client's end.

        unix: the forward has a path instead of a port.
        """
        if unix:
            client, accepted = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                client = socket.create_connection(listener.getsockname())
                accepted, _ = listener.accept()
        self.keep(client).setblocking(False)
        request = {"op": "accepted", "addr": addr_bytes(addr), "port": port, "first": first}
        assert self.stages[egress].on_control(request, [accepted.detach()]) == {"ok": True}
        return client

    def udp_server(self) -> socket.socket:
        """A non-blocking UDP socket of the host, on a port of its own."""
        server = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        return server

    def keep(self, sock: socket.socket) -> socket.socket:
        """Close this socket when the test ends. Returns it."""
        self._sockets.append(sock)
        return sock

    # --- the end ----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What is wrong, if there are no guests and no work. Each problem is a text."""
        pools = {name: worker.ports.pool for name, worker in self.workers.items()}
        found = audit(self.layout, {name: pool for name, pool in pools.items() if pool is not None})
        found += self.fabric.audit()
        for name in self.stages:
            found += [f"{name}: {what} = {count}" for what, count in self.held_by(name).items() if count]
        return found

    def at_home(self) -> None:
        """Let the longest timer pass, after all guests have left. Assert that all references are home."""
        self.advance(LONGEST)
        found = [*self.problems(), *self.strange_counts()]
        assert not found, "\n".join(found)

    def strange_counts(self) -> list[str]:
        """A text about each counter that a worker counted although WRITERS does not say so."""
        return [
            f"{node.name} counted {name}"
            for node in self.layout.nodes
            for name, value in self.fabric.counters(node.name).snapshot().items()
            if value and node.role not in writers(name)
        ]

    def close(self) -> None:
        """End all workers in order, and close the sockets that the test has opened."""
        for worker in self.workers.values():
            worker.end()
            if worker.poller is not None:
                worker.poller.close()
        for sock in self._sockets:
            sock.close()
        for waiter in self.fabric.waiters.values():
            waiter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
