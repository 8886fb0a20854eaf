"""The graph of worker processes as data: the workers, the rings between them, and the slots that each owns.

An *edge* is a ring that carries records from one worker to another. A *slot* is a piece of shared memory with
payload. The worker that allocates a slot is its *home*. A *free ring* carries slot numbers back to their
home. Each worker has a free ring to each home whose slots it can hold. Egress shards never see each other's
slots, and listen sees none. A *hand-off* is a socket pair over which one worker passes descriptors to
another. The supervisor is not a node: it talks to the workers over sockets and only rings their bells.

Everything here is pure. pipeline.ipc.fabric allocates the memory for a Layout.
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
"""Roles that hold sockets: their workers wait on a descriptor. The others wait on a semaphore."""

DATA_CAPACITY: Final = 1024
"""Records on an edge that carries guest traffic: more than one read makes of small frames."""
SERVICE_CAPACITY: Final = 256
"""Records on an edge to or from the resolver."""
FREE_CAPACITY: Final = 1024
"""Slot numbers on a free ring. What does not fit waits in the worker that frees."""

MAX_REFS: Final = 16384
"""References to ingress's slots that other workers may hold. At this number ingress stops reading links. At
most half of them may be out-of-order data, which a guest can leave incomplete for any time."""

DEFAULT_SLOTS: Final = 512
MIN_SLOTS: Final = 64
DEMUX_SLOTS: Final = 32
RESOLVER_SLOTS: Final = 16


class TopologyError(ValueError):
    """The graph contradicts itself, or the numbers asked for do not make one."""


class Node(NamedTuple):
    """One worker process. ``shard`` counts within the role."""

    name: str
    role: str
    shard: int


class Edge(NamedTuple):
    """One ring. ``capacity`` counts entries. ``entry_bytes`` tells records from slot numbers."""

    source: str
    target: str
    capacity: int
    entry_bytes: int


class Span(NamedTuple):
    """The slots [first, first + count) of a pool."""

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


def check_edges(edges: Iterable[Edge], nodes: Iterable[Node]) -> None:
    """Raise TopologyError if an edge stands twice, does not join two workers, or has a bad capacity."""
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
    """Raise TopologyError unless the pools follow each other without gaps and cover all slots."""
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
    inward = [(INGRESS, worker) for worker in (*tcps, *egresses, DEMUX)]
    inward += [(DEMUX, worker) for worker in (*tcps, *egresses)]
    to_hosts = [(tcp, egress) for tcp in tcps for egress in egresses]
    outward = [(worker, INGRESS) for worker in (DEMUX, *tcps, *egresses)]
    outward += [(egress, tcp) for tcp in tcps for egress in egresses]
    outward += [(egress, DEMUX) for egress in egresses]
    return (
        # A worker publishes its rings in this order. Tcp passes a guest's bytes to egress before it
        # acknowledges them to the guest, so that the host can answer early. Demux tells ingress what it must
        # know of a guest before other workers answer that guest.
        *(Edge(a, b, DATA_CAPACITY, RECORD_BYTES) for a, b in to_hosts + outward + inward),
        Edge(DEMUX, RESOLVER, SERVICE_CAPACITY, RECORD_BYTES),
        Edge(RESOLVER, DEMUX, SERVICE_CAPACITY, RECORD_BYTES),
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
