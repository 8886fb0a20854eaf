"""The graph as data: which workers exist, which rings join them, who owns which slots, and where it all lies.

:class:`Layout` is pure arithmetic on three numbers and checks itself; :class:`Fabric` is a
layout with memory behind it, made by the supervisor before it forks; :class:`WorkerPorts`
is what one worker sees of it. One segment::

    | bells | counters | rings, free rings | (to a page) slots |

Every part is aligned to a cache line, slots to a page. The supervisor is no node here: it
talks to the workers over sockets and only rings their bells.

An *edge* carries 64-byte descriptors from one worker to another. A *free ring* carries
slot numbers back to the worker that allocates them (their home); there is one from each
worker that can hold a slot to each home whose slots it can hold. Egress shards never see
each other's slots, and listen sees none. A *hand-off* is a pair of sockets over which open
descriptors go from one worker to another.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.counters import CounterBlock
from pipeline.ipc.arena import SLOT_BYTES, Arena, Pool
from pipeline.ipc.ring import SLOT_ENTRY_BYTES, Consumer, Producer, SlotConsumer, SlotProducer, ring_bytes
from pipeline.ipc.segment import Segment
from pipeline.ipc.socket_pair import socket_pair
from pipeline.ipc.wake import BELL_BYTES, Bell, EventfdWaiter, Waiter, lone_waiter
from pipeline.records.descriptor import DESCRIPTOR_BYTES

INGRESS: Final = "ingress"
DEMUX: Final = "demux"
TCP: Final = "tcp"
EGRESS: Final = "egress"
RESOLVER: Final = "resolver"
LISTEN: Final = "listen"

SOCKET_ROLES: Final = frozenset({INGRESS, EGRESS, RESOLVER, LISTEN})
"""Roles that wait for sockets and on a descriptor; the others hold no sockets and wait on a semaphore."""

DATA_CAPACITY: Final = 1024
"""Descriptors of an edge that carries guest traffic: more than one burst read of small frames."""
SERVICE_CAPACITY: Final = 256
"""Descriptors of an edge to or from the resolver."""
FREE_CAPACITY: Final = 1024
"""Slot numbers of a free ring: what does not fit waits with the worker that frees."""

MAX_REFS: Final = 16384
"""References to slots of ingress that may be out; beyond, links are not read. Out-of-order data, which a
guest can leave there for as long as it likes, get half of them."""

DEFAULT_SLOTS: Final = 512
MIN_SLOTS: Final = 64
DEMUX_SLOTS: Final = 32
RESOLVER_SLOTS: Final = 16
PAGE: Final = 4096


class TopologyError(ValueError):
    """The graph contradicts itself, or the asked numbers do not make one."""


class Node(NamedTuple):
    """One worker process. ``shard`` counts within the role."""

    name: str
    role: str
    shard: int


class Edge(NamedTuple):
    """One ring. ``entry_bytes`` tells descriptors from slot numbers."""

    source: str
    target: str
    capacity: int
    entry_bytes: int


class Span(NamedTuple):
    """The slots [first, first + count) of a pool."""

    first: int
    slot_count: int


@dataclass(frozen=True, slots=True)
class WorkerPorts:
    """Everything of the fabric that one worker uses. Made in the worker, after the fork.

    name, role     "tcp0" and "tcp"; index is the shard within the role
    rings_in       by name of the peer that produces
    rings_out      by name of the peer that consumes
    free_in        by name of the peer: references to slots of the own pool come home (empty without one)
    free_out       by name of the home, for references to foreign slots
    handoffs       by name of the peer: this worker's end of the pair of sockets
    pool           what this worker allocates from, None if it never allocates
    homes          by slot number: name of its home
    bell, bells    the own bell, and those of every other worker by name
    """

    name: str
    role: str
    index: int
    rings_in: dict[str, Consumer]
    rings_out: dict[str, Producer]
    free_in: dict[str, SlotConsumer]
    free_out: dict[str, SlotProducer]
    handoffs: dict[str, socket.socket]
    pool: Pool | None
    arena: Arena
    homes: list[str]
    counters: CounterBlock
    bell: Bell
    bells: dict[str, Bell]

    def home_of(self, slot: int) -> str:
        """Name of the worker that allocates slot."""
        return self.homes[slot]


class Layout:
    """Nodes, edges, pools and offsets for a number of slots, tcp shards and egress shards.

    Raises TopologyError when a number is impossible.
    """

    def __init__(self, slots: int = DEFAULT_SLOTS, tcp_workers: int = 1, egress_workers: int = 1) -> None:
        if tcp_workers < 1 or egress_workers < 1:
            raise TopologyError("at least one tcp worker and one egress worker are needed")
        self.slots = slots
        self.nodes = _nodes(tcp_workers, egress_workers)
        self.edges = _edges(self.nodes)
        self.pools = _pools(slots, self.nodes)
        self.free_edges = _free_edges(self.nodes, self.pools)
        self.handoffs = tuple((LISTEN, egress) for egress in self.shards(EGRESS))
        check_edges(self.edges, self.nodes)
        check_edges(self.free_edges, self.nodes)
        check_pools(self.pools, slots)
        self.homes = [home for home, span in self.pools.items() for _ in range(span.slot_count)]
        self.bell_offsets: dict[str, int] = {}
        self.counter_offsets: dict[str, int] = {}
        self.ring_offsets: dict[Edge, int] = {}
        at = 0
        for node in self.nodes:
            self.bell_offsets[node.name] = at
            at += BELL_BYTES
        for node in self.nodes:
            self.counter_offsets[node.name] = at
            at += CounterBlock.BYTES
        for edge in (*self.edges, *self.free_edges):
            self.ring_offsets[edge] = at
            at += ring_bytes(edge.capacity, edge.entry_bytes)
        self.slots_offset = (at + PAGE - 1) // PAGE * PAGE
        self.size_bytes = self.slots_offset + slots * SLOT_BYTES

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all workers, in the order in which they are started."""
        return tuple(node.name for node in self.nodes)

    def shards(self, role: str) -> tuple[str, ...]:
        """Names of the workers of one role, by shard."""
        return tuple(node.name for node in self.nodes if node.role == role)

    def node(self, name: str) -> Node:
        """The worker called name; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


class Fabric:
    """A layout with its memory and waiters: made once, before the fork, and inherited."""

    def __init__(self, layout: Layout, segment: Segment, waiters: Mapping[str, Waiter]) -> None:
        self.layout = layout
        self.segment = segment
        self.waiters = dict(waiters)
        self.handoffs = {pair: _socket_pair(pair) for pair in layout.handoffs}

    @classmethod
    def create(cls, layout: Layout, processes: Iterable[Sequence[str]] = ()) -> "Fabric":
        """Make the segment and one waiter a process. SegmentError, OSError when the system refuses.

        processes: names of the workers that share one; by default each has its own.
        """
        # The segment first: where there is too little memory it says how much.
        segment = Segment.create(layout.size_bytes)
        waiters: dict[str, Waiter] = {}
        for names in processes or [[name] for name in layout.names]:
            sockets = len(names) > 1 or layout.node(names[0]).role in SOCKET_ROLES
            waiter: Waiter = EventfdWaiter() if sockets else lone_waiter()
            waiters.update(dict.fromkeys(names, waiter))
        return cls(layout, segment, waiters)

    def bell(self, name: str) -> Bell:
        """The bell of a worker: for the supervisor, ``notify_control`` after each message sent."""
        at = self.layout.bell_offsets[name]
        return Bell(self.segment.buf[at : at + BELL_BYTES], self.waiters[name])

    def counters(self, name: str) -> CounterBlock:
        """The counters of a worker, which anybody may read."""
        at = self.layout.counter_offsets[name]
        return CounterBlock(self.segment.buf[at : at + CounterBlock.BYTES])

    def ports(self, name: str) -> WorkerPorts:
        """What the worker called name uses. To be called once, in that worker: it makes its ring ends."""
        layout = self.layout
        node = layout.node(name)
        span = layout.pools.get(name)
        return WorkerPorts(
            name=name,
            role=node.role,
            index=node.shard,
            rings_in={
                edge.source: Consumer(self._ring(edge), edge.capacity, edge.entry_bytes)
                for edge in layout.edges
                if edge.target == name
            },
            rings_out={
                edge.target: Producer(self._ring(edge), edge.capacity, edge.entry_bytes)
                for edge in layout.edges
                if edge.source == name
            },
            free_in={
                edge.source: SlotConsumer(self._ring(edge), edge.capacity)
                for edge in layout.free_edges
                if edge.target == name
            },
            free_out={
                edge.target: SlotProducer(self._ring(edge), edge.capacity)
                for edge in layout.free_edges
                if edge.source == name
            },
            handoffs={peer: ends[name] for peer, ends in self._handoffs_of(name)},
            pool=Pool(*span) if span else None,
            arena=Arena(self.segment.buf[layout.slots_offset :], layout.slots),
            homes=layout.homes,
            counters=self.counters(name),
            bell=self.bell(name),
            bells={other: self.bell(other) for other in layout.names if other != name},
        )

    def _handoffs_of(self, name: str) -> Iterator[tuple[str, dict[str, socket.socket]]]:
        for pair, ends in self.handoffs.items():
            if name in pair:
                yield pair[0] if pair[1] == name else pair[1], ends

    def _ring(self, edge: Edge) -> memoryview:
        at = self.layout.ring_offsets[edge]
        return self.segment.buf[at : at + ring_bytes(edge.capacity, edge.entry_bytes)]

    def rings_in_use(self) -> Iterator[str]:
        """Each ring that is not empty now, as text. Reads only; exact when the workers are at rest."""
        for edge in (*self.layout.edges, *self.layout.free_edges):
            held = len(Consumer(self._ring(edge), edge.capacity, edge.entry_bytes))
            if held:
                kind = "ring" if edge.entry_bytes == DESCRIPTOR_BYTES else "free ring"
                yield f"{kind} {edge.source} -> {edge.target} holds {held} entries"

    def audit(self) -> list[str]:
        """Count all slots at rest: what is missing, as text; empty when everything is home.

        Works on the gauges that each home refreshes once a second: call it at least two seconds
        after the last traffic. Free rings need not be empty sooner: a home drains them as it wakes.
        """
        problems = list(self.rings_in_use())
        for home, span in self.layout.pools.items():
            counters = self.counters(home).snapshot()
            free, refs = counters["worker_slots_free"], counters["worker_slot_refs_out"]
            if (free, refs) != (span.slot_count, 0):
                problems.append(f"{home}: {free} of {span.slot_count} slots free, {refs} references out")
        return problems

    def close(self) -> None:
        """Give this process's handles back. Views of the segment must be gone, or it stays mapped."""
        for waiter in set(self.waiters.values()):
            waiter.close()
        for ends in self.handoffs.values():
            for end in ends.values():
                end.close()
        self.segment.close()


def _socket_pair(names: tuple[str, str]) -> dict[str, socket.socket]:
    return dict(zip(names, socket_pair(), strict=True))


def audit_pools(layout: Layout, pools: Mapping[str, Pool]) -> list[str]:
    """Check pools held in one process (a test of stages) against the layout, at rest."""
    problems = [f"{home}: no such pool" for home in pools.keys() - layout.pools.keys()]
    for home, span in layout.pools.items():
        pool = pools.get(home)
        if pool is None:
            problems.append(f"{home}: pool is missing")
            continue
        if (wrong := pool.audit()) is not None:
            problems.append(f"{home}: {wrong}")
        if (pool.first, pool.count) != span or pool.free_count != span.slot_count or pool.refs_out:
            problems.append(
                f"{home}: {pool.free_count} of {span.slot_count} slots free, {pool.refs_out} references out"
            )
    return problems


def check_edges(edges: Iterable[Edge], nodes: Iterable[Node]) -> None:
    """TopologyError if an edge is there twice, ends nowhere, turns on itself or has an odd capacity."""
    names = {node.name for node in nodes}
    seen: set[tuple[str, str]] = set()
    for edge in edges:
        source, target, capacity, _ = edge
        if (source, target) in seen:
            raise TopologyError(f"edge {source} -> {target} is there twice")
        if source == target or not {source, target} <= names:
            raise TopologyError(f"edge {source} -> {target} does not join two workers")
        if capacity <= 0 or capacity & (capacity - 1):
            raise TopologyError(f"edge {source} -> {target}: capacity {capacity} is no power of two")
        seen.add((source, target))


def check_pools(pools: Mapping[str, Span], slots: int) -> None:
    """TopologyError unless the pools lie one behind the other and cover the arena."""
    at = 0
    for home, span in pools.items():
        if span.first != at or span.slot_count < 1:
            raise TopologyError(f"pool of {home} is {span}, slot {at} comes next")
        at += span.slot_count
    if at != slots:
        raise TopologyError(f"pools cover {at} of {slots} slots")


def _nodes(tcp_workers: int, egress_workers: int) -> tuple[Node, ...]:
    return (
        Node(INGRESS, INGRESS, 0),
        Node(DEMUX, DEMUX, 0),
        *(Node(f"{TCP}{i}", TCP, i) for i in range(tcp_workers)),
        *(Node(f"{EGRESS}{j}", EGRESS, j) for j in range(egress_workers)),
        Node(RESOLVER, RESOLVER, 0),
        Node(LISTEN, LISTEN, 0),
    )


def _edges(nodes: tuple[Node, ...]) -> tuple[Edge, ...]:
    tcps = [node.name for node in nodes if node.role == TCP]
    egresses = [node.name for node in nodes if node.role == EGRESS]
    joined = [(INGRESS, worker) for worker in (*tcps, *egresses, DEMUX)]
    joined += [(DEMUX, worker) for worker in (*tcps, *egresses)]
    hurried = [(tcp, egress) for tcp in tcps for egress in egresses]
    both_ways = [(worker, INGRESS) for worker in (DEMUX, *tcps, *egresses)]
    both_ways += [(egress, tcp) for tcp in tcps for egress in egresses]
    both_ways += [(egress, DEMUX) for egress in egresses]
    return (
        # In this order a worker publishes: what ingress must know of a guest before what is answered to it,
        # and what a guest asks of a host, who may answer, before the acknowledgement that it was taken.
        *(Edge(a, b, DATA_CAPACITY, DESCRIPTOR_BYTES) for a, b in hurried + both_ways + joined),
        Edge(DEMUX, RESOLVER, SERVICE_CAPACITY, DESCRIPTOR_BYTES),
        Edge(RESOLVER, DEMUX, SERVICE_CAPACITY, DESCRIPTOR_BYTES),
    )


def _pools(slots: int, nodes: tuple[Node, ...]) -> dict[str, Span]:
    """About half to ingress, a few to demux and resolver, the rest in equal parts to the egress shards."""
    egresses = [node.name for node in nodes if node.role == EGRESS]
    small = min(DEMUX_SLOTS, slots // 16), min(RESOLVER_SLOTS, slots // 16)
    shared = slots - slots // 2 - sum(small)
    if slots < MIN_SLOTS or shared < 8 * len(egresses):
        raise TopologyError(f"{slots} slots are too few for {len(egresses)} egress workers")
    counts = {INGRESS: slots // 2, DEMUX: small[0], RESOLVER: small[1]}
    for number, egress in enumerate(egresses):
        counts[egress] = shared * (number + 1) // len(egresses) - shared * number // len(egresses)
    pools: dict[str, Span] = {}
    at = 0
    for home, count in counts.items():
        pools[home] = Span(at, count)
        at += count
    return pools


def _free_edges(nodes: tuple[Node, ...], pools: Mapping[str, Span]) -> tuple[Edge, ...]:
    roles = {node.name: node.role for node in nodes}
    return tuple(
        Edge(node.name, home, FREE_CAPACITY, SLOT_ENTRY_BYTES)
        for node in nodes
        for home in pools
        if node.name != home and node.role != LISTEN and (node.role, roles[home]) != (EGRESS, EGRESS)
    )
