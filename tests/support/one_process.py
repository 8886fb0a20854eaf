"""Several real stages in one process, without a fork: they breathe in turn, time is what the test says.

A node of the graph that is not run is *played*: a Neighbour sits at its ends of the rings, keeps what comes
out for the test to look at, and pushes what the test wants. Host sockets are real ones on the
loopback interface. At the end nothing may be left: see OneProcess.at_home().
"""

import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from pipeline.config import merge, options
from pipeline.counters import INDEX
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric, audit_pools
from pipeline.records import kinds
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.run import Run
from pipeline.stages.demux.stage import DemuxStage
from pipeline.stages.egress.stage import EgressStage
from pipeline.stages.tcp.stage import TcpStage
from pipeline.stages.worker import Message, Worker
from pipeline.topology import DEMUX, EGRESS, TCP, Layout
from tests.support.configured import changed
from tests.support.received import Received

LIMIT = 15.0
"""Real seconds until something that the kernel should do at once counts as not happening."""
MAX_TURNS = 20000
"""Turns without coming to rest that count as never coming to rest."""
QUIET_TURNS = 3
"""Turns without work that make rest: a reference on its way home is no work, and passes two workers."""
LONGEST = 8000.0
"""Virtual seconds after which a guest that says nothing has lost every connection (keep-alive: two hours)."""

_STAGES: Final[dict[str, Callable[..., Any]]] = {DEMUX: DemuxStage, TCP: TcpStage, EGRESS: EgressStage}


class Neighbour:
    """The stage of a played node. References are given back at once, unless ``keeps`` is set."""

    def __init__(self, worker: Worker, process: "OneProcess") -> None:
        self.worker = worker
        self.process = process
        self.slots = worker.ports.arena.slots
        self.taken: list[Received] = []
        """What has come and nobody has asked for yet."""
        self.deaf = False
        """Leave everything in the rings."""
        self.keeps = False
        """Keep references until give_back(), as a worker does that is not done with them."""

    def step(self, now: float) -> int:
        """Take everything out of the rings."""
        count = 0
        for ring in () if self.deaf else self.worker.ports.rings_in.values():
            while burst := ring.peek():
                for at in range(0, len(burst), RECORD_BYTES):
                    count += 1
                    self.on_record(Received(bytes(burst[at : at + RECORD_BYTES])))
                ring.release(len(burst) // RECORD_BYTES)
        return count

    def on_record(self, record: Received) -> None:
        """One record; the ring entry is released afterwards."""
        self.taken.append(record)
        if not self.keeps:
            self.give_back(record)

    def deadline(self) -> float:
        """A neighbour does nothing by itself."""
        return float("inf")

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        """Nobody asks."""
        return {"error": f"{self.worker.name} is played"}

    def on_released(self, source: str, tags: list[int]) -> None:
        """Slots of the played worker came home."""

    def held(self) -> dict[str, int]:
        """What is kept is the test's."""
        return {}

    def close(self) -> None:
        """Nothing to give back."""

    def push(self, peer: str, record: bytes) -> None:
        """A record for another worker, published with the next breath."""
        self.worker.ports.rings_out[peer].push(record)

    def take(self, *kinds: int) -> list[Received]:
        """Records of these kinds (of any, without) that came since they were last asked for."""
        found = [record for record in self.taken if not kinds or record.kind in kinds]
        self.taken = [record for record in self.taken if kinds and record.kind not in kinds]
        return found

    def give_back(self, record: Received) -> None:
        """The reference of a record is done with; its flow is the tag, as tcp has it."""
        if record.carries():
            self.worker.free(record.slot, record.flow if record.kind == kinds.TO_GUEST else 0)

    def data(self, record: Received) -> bytes:
        """The bytes that a record names, which must not have gone home yet."""
        if not record.length:
            return b""
        slot = self.slots[record.slot]
        if isinstance(record.fields, Run):
            return b"".join(record.fields.views(slot))
        return bytes(slot[record.off : record.off + record.length])

    def fill(self, payload: bytes, off: int = 256) -> int:
        """A slot of the own pool with payload at off, and one reference; AssertionError without one."""
        slot = self.worker.pool.alloc()
        assert slot != kinds.NO_SLOT, f"{self.worker.name} has no slot left"
        self.slots[slot][off : off + len(payload)] = payload
        return slot


class OneProcess:
    """A fabric with all its workers, the real ones and the played ones. A context manager."""

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
        """run: roles whose stages are real. played: what plays a node, by default a plain Neighbour.

        seed: breathe in an order drawn anew for each turn. settings: fields of Config's groups.
        """
        config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        self.config = changed(
            config, slots=slots, tcp_workers=tcp_workers, egress_workers=egress_workers, **settings
        )
        self.layout = Layout(slots, tcp_workers, egress_workers)
        self.fabric = Fabric.create(self.layout)
        self.now = 1000.0
        self.rng = random.Random(seed) if seed is not None else None
        self.workers: dict[str, Worker] = {}
        self.stages: dict[str, Any] = {}
        self.neighbours: dict[str, Neighbour] = {}
        for name in self.layout.names:
            role = self.layout.node(name).role
            worker = self.workers[name] = Worker(self.fabric.ports(name), None)
            if role in run:
                self.stages[name] = stage = _STAGES[role](worker, self.config)
            else:
                stage = self.neighbours[name] = (played or {}).get(name, Neighbour)(worker, self)
            worker.adopt(stage)
        self.order = list(self.layout.names)
        """In which the workers breathe, unless a seed was given."""
        self._sockets: list[socket.socket] = []

    # --- time ---------------------------------------------------------------------------

    def breathe(self, *names: str) -> int:
        """One breath of each worker, socket events first; how much was done."""
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
        """One breath of everybody."""
        if self.rng is not None:
            self.rng.shuffle(self.order)
        return self.breathe(*self.order)

    def settle(self) -> None:
        """Breathe until nothing happens any more, without any time passing."""
        quiet = 0
        for _ in range(MAX_TURNS):
            done = self.turn() or any(stage.deadline() <= self.now for stage in self.stages.values())
            quiet = 0 if done else quiet + 1
            if quiet == QUIET_TURNS:
                return
        raise AssertionError(f"no rest after {MAX_TURNS} turns: {[*self.fabric.rings_in_use()]}")

    def advance(self, seconds: float) -> None:
        """Let time pass from deadline to deadline, and settle at each."""
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
        """Settle until something happened that the kernel, or a delay of ours, may hold up for a while."""
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
        """A counter of one worker."""
        return int(self.workers[worker].counts[INDEX[name]])

    def total(self, name: str) -> int:
        """A counter, over all workers."""
        return sum(int(worker.counts[INDEX[name]]) for worker in self.workers.values())

    def held_by(self, name: str) -> dict[str, int]:
        """What a real stage holds for guests: how many of each thing, by name."""
        return dict(self.stages[name].held())

    def accept(
        self, egress: str, addr: int, port: int, first: bytes = b"", *, unix: bool = False
    ) -> socket.socket:
        """A host client of a forwarded port whose connection listen has accepted; its end.

        unix: the forward has a path instead of a port.
        """
        if unix:
            client, accepted = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                client = socket.create_connection(listener.getsockname())
                accepted, _ = listener.accept()
        self.keep(client).setblocking(False)
        request = {"op": "accepted", "addr": addr, "port": port, "first": first}
        assert self.stages[egress].on_control(request, [accepted.detach()]) == {"ok": True}
        return client

    def udp_server(self) -> socket.socket:
        """A UDP socket of the host on a port of its own, which does not block."""
        server = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        return server

    def keep(self, sock: socket.socket) -> socket.socket:
        """The socket, which is closed when the test ends."""
        self._sockets.append(sock)
        return sock

    # --- the end ----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What is not as it should be when no guest is there and nothing is under way, as text."""
        pools = {name: worker.ports.pool for name, worker in self.workers.items()}
        found = audit_pools(self.layout, {name: pool for name, pool in pools.items() if pool is not None})
        found += self.fabric.audit()
        for name in self.stages:
            found += [f"{name}: {what} = {count}" for what, count in self.held_by(name).items() if count]
        return found

    def at_home(self) -> None:
        """Let the longest timer pass, when everybody has left: nothing may be there any more."""
        self.advance(LONGEST)
        found = self.problems()
        assert not found, "\n".join(found)

    def close(self) -> None:
        """End all workers in order, and close what the test opened."""
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
