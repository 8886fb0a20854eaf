"""The graph of workers as data: which workers exist, which rings connect them, which worker owns which slots.

An *edge* is a ring that carries records from one worker to another. A *free ring* carries slot numbers back
to the worker that allocates these slots (their home). If a worker can hold slots of a home, there is a free
ring from the worker to that home. Egress shards never hold each other's slots, and listen holds none. A
*hand-off* is a pair of sockets over which one worker passes open descriptors to another. The supervisor is
not a node. It talks to the workers over sockets, and rings their bells.

This module only computes. pipeline.ipc.fabric allocates the memory of a Layout.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pipeline.records.kinds import RECORD_BYTES, SLOT_ENTRY_BYTES

INGRESS: Final = "ingress"
DEMUX: Final = "demux"
TCP: Final = "tcp"
EGRESS: Final = "egress"
RESOLVER: Final = "resolver"
LISTEN: Final = "listen"

SOCKET_ROLES: Final = frozenset({INGRESS, EGRESS, RESOLVER, LISTEN})
"""Roles that hold sockets, and wait with a poller. The others wait on a semaphore."""

DATA_CAPACITY: Final = 1024
"""Records of an edge that carries guest traffic. One burst of small frames fits."""
SERVICE_CAPACITY: Final = 256
"""Records of an edge to or from the resolver."""
FREE_CAPACITY: Final = 1024
"""Slot numbers of a free ring. The worker that frees slots keeps those that do not fit."""

MAX_REFS: Final = 16384
"""References to slots of ingress that may be out. Above this, ingress does not read links. Out-of-order data
may hold half of them, because a guest decides how long such data wait."""

DEFAULT_SLOTS: Final = 512
MIN_SLOTS: Final = 64
DEMUX_SLOTS: Final = 32
RESOLVER_SLOTS: Final = 16


class TopologyError(ValueError):
    """The graph is inconsistent, or no graph is possible with the given numbers."""


class Node(NamedTuple):
    """One worker. ``shard`` counts from 0 within the role."""

    name: str
    role: str
    shard: int


class Edge(NamedTuple):
    """One ring. ``entry_bytes`` is the size of its entries: a record or a slot number."""

    source: str
    target: str
    capacity: int
    entry_bytes: int


class Span(NamedTuple):
    """The slots [first, first + slot_count) of a pool."""

    first: int
    slot_count: int


class Layout:
    """Nodes, edges and pools for a number of slots, tcp shards and egress shards.

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

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all workers, in the order of their start."""
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


def check_edges(edges: Iterable[Edge], nodes: Iterable[Node]) -> None:
    """Raises TopologyError for an edge that exists twice, joins no two workers, or has a bad capacity."""
    names = {node.name for node in nodes}
    seen: set[tuple[str, str]] = set()
    for edge in edges:
        source, target, capacity, _ = edge
        if (source, target) in seen:
            raise TopologyError(f"edge {source} -> {target} is there twice")
        if source == target or not {source, target} <= names:
            raise TopologyError(f"edge {source} -> {target} does not join two workers")
        if capacity <= 0 or capacity & (capacity - 1):
            raise TopologyError(f"edge {source} -> {target}: capacity {capacity} is not a power of two")
        seen.add((source, target))


def check_pools(pools: Mapping[str, Span], slots: int) -> None:
    """Raises TopologyError unless the pools lie one after the other and cover the arena."""
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
        # A worker publishes its rings in this order. tcp publishes to egress before ingress: the request of a
        # guest reaches the host before the guest gets its ACK. demux publishes to ingress before tcp and
        # egress: ingress then knows a guest before it gets an answer for the guest.
        *(Edge(a, b, DATA_CAPACITY, RECORD_BYTES) for a, b in hurried + both_ways + joined),
        Edge(DEMUX, RESOLVER, SERVICE_CAPACITY, RECORD_BYTES),
        Edge(RESOLVER, DEMUX, SERVICE_CAPACITY, RECORD_BYTES),
    )


def _pools(slots: int, nodes: tuple[Node, ...]) -> dict[str, Span]:
    """Half of the slots for ingress, a few for demux and resolver, the rest in equal parts for egress."""
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
