"""The shared memory and waiters of a Layout (topology.py): how workers reach their rings, slots and bells.

The supervisor makes one Fabric before it forks, and every worker inherits it. Plan says where each part lies
in the segment::

    | bells | counters | places of links | rings, free rings | slots |

Slots begin at a page, every other part at a cache line. WorkerPorts is the part that one worker uses.
"""

import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pipeline.counter_block import CounterBlock
from pipeline.ipc.arena import SLOT_BYTES, Arena, Pool
from pipeline.ipc.ring import Consumer, Producer, SlotConsumer, SlotProducer, depth, passed, ring_bytes
from pipeline.ipc.segment import Segment
from pipeline.ipc.socket_pair import socket_pair
from pipeline.ipc.wake import BELL_BYTES, Bell, EventfdWaiter, Waiter, lone_waiter
from pipeline.records.kinds import RECORD_BYTES
from pipeline.topology import SOCKET_ROLES, Edge, Layout

PAGE: Final = 4096
Memory: TypeAlias = memoryview
"""The type of a field. mypyc finds most built-in types there, but not this one."""
PLACES_BYTES: Final = 256 * 64
"""For 256 links (pipeline.links.places)."""


@dataclass(frozen=True, slots=True)
class WorkerPorts:
    """What one worker uses of the fabric. Made in the worker's process, after the fork.

    name, role     such as "tcp0" and "tcp"; index is the shard within the role
    rings_in       by name of the producing worker
    rings_out      by name of the consuming worker
    free_in        by name of the freeing worker: slot numbers of this worker's pool; empty without a pool
    free_out       by name of the home: slot numbers of other workers' pools
    handoffs       by name of the other worker: this worker's end of the socket pair
    pool           the slots that this worker allocates; None if it has none
    homes          by slot number: the name of the slot's home
    bell, bells    this worker's bell, and all others by name of their worker
    places         the memory for the places of links; only ingress uses it
    incarnation    how many workers with this name have died before
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
    places: Memory
    incarnation: int = 0

    def home_of(self, slot: int) -> str:
        """The name of the worker that allocates this slot."""
        return self.homes[slot]


class Plan:
    """Offsets of all parts in the segment, and its size in bytes."""

    def __init__(self, layout: Layout) -> None:
        self.bell_offsets: dict[str, int] = {}
        self.counter_offsets: dict[str, int] = {}
        self.ring_offsets: dict[Edge, int] = {}
        at = 0
        for node in layout.nodes:
            self.bell_offsets[node.name] = at
            at += BELL_BYTES
        for node in layout.nodes:
            self.counter_offsets[node.name] = at
            at += CounterBlock.BYTES
        self.places_offset = at
        at += PLACES_BYTES
        for edge in (*layout.edges, *layout.free_edges):
            self.ring_offsets[edge] = at
            at += ring_bytes(edge.capacity, edge.entry_bytes)
        self.slots_offset = (at + PAGE - 1) // PAGE * PAGE
        self.size_bytes = self.slots_offset + layout.slots * SLOT_BYTES


class Fabric:
    """A layout with its memory and waiters. Made once, before the fork; all workers inherit it."""

    def __init__(self, layout: Layout, segment: Segment, waiters: Mapping[str, Waiter]) -> None:
        self.layout = layout
        self.plan = Plan(layout)
        self.segment = segment
        # One for all workers: its views take 100 KB.
        self.arena = Arena(segment.buf[self.plan.slots_offset :], layout.slots)
        self.waiters = dict(waiters)
        self.handoffs = {pair: _socket_pair(pair) for pair in layout.handoffs}

    @classmethod
    def create(
        cls, layout: Layout, processes: Iterable[Sequence[str]] = (), *, anywhere: bool = False
    ) -> "Fabric":
        """Make the segment, and one waiter for each process. Raises SegmentError or OSError.

        processes: for each process the names of its workers. By default each worker has its own.
        anywhere: as in Segment.create().
        """
        # The segment comes first: if memory is short, its error says how much is missing.
        segment = Segment.create(Plan(layout).size_bytes, anywhere=anywhere)
        waiters: dict[str, Waiter] = {}
        for names in processes or [[name] for name in layout.names]:
            sockets = len(names) > 1 or layout.node(names[0]).role in SOCKET_ROLES
            waiter: Waiter = EventfdWaiter() if sockets else lone_waiter()
            waiters.update(dict.fromkeys(names, waiter))
        return cls(layout, segment, waiters)

    def bell(self, name: str) -> Bell:
        """The bell of a worker. The supervisor calls its notify_control() after each message."""
        at = self.plan.bell_offsets[name]
        return Bell(self.segment.buf[at : at + BELL_BYTES], self.waiters[name])

    def counters(self, name: str) -> CounterBlock:
        """The counters of a worker. Every process may read them."""
        at = self.plan.counter_offsets[name]
        return CounterBlock(self.segment.buf[at : at + CounterBlock.BYTES])

    def ports(self, name: str, incarnation: int = 0) -> WorkerPorts:
        """The ports of a worker. Call it once, in that worker's process: it makes the worker's ring ends."""
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
            arena=self.arena,
            homes=layout.homes,
            counters=self.counters(name),
            bell=self.bell(name),
            bells={other: self.bell(other) for other in layout.names if other != name},
            places=self.places(),
            incarnation=incarnation,
        )

    def bury(self, names: Collection[str]) -> None:
        """These workers are dead: empty the rings between them, and let nobody wake them.

        Each living worker empties its rings with them itself.
        """
        for edge in (*self.layout.edges, *self.layout.free_edges):
            if edge.source in names and edge.target in names:
                Producer(self._ring(edge), edge.capacity, edge.entry_bytes).forget()
        for name in names:
            self.bell(name).clear()

    def _handoffs_of(self, name: str) -> Iterator[tuple[str, dict[str, socket.socket]]]:
        for pair, ends in self.handoffs.items():
            if name in pair:
                yield pair[0] if pair[1] == name else pair[1], ends

    def _ring(self, edge: Edge) -> memoryview:
        at = self.plan.ring_offsets[edge]
        return self.segment.buf[at : at + ring_bytes(edge.capacity, edge.entry_bytes)]

    def places(self) -> memoryview:
        """The memory in which ingress writes down where its links are (pipeline.links.places)."""
        at = self.plan.places_offset
        return self.segment.buf[at : at + PLACES_BYTES]

    def ring_depths(self) -> dict[Edge, int]:
        """The number of records in each ring that carries records."""
        return {edge: depth(self._ring(edge), edge.capacity) for edge in self.layout.edges}

    def rings_passed(self) -> dict[Edge, int]:
        """The number of records that each of these rings has carried since the start."""
        return {edge: passed(self._ring(edge)) for edge in self.layout.edges}

    def rings_in_use(self) -> Iterator[str]:
        """A text about each ring that is not empty. Exact only while the workers are idle."""
        for edge in (*self.layout.edges, *self.layout.free_edges):
            held = len(Consumer(self._ring(edge), edge.capacity, edge.entry_bytes))
            if held:
                kind = "ring" if edge.entry_bytes == RECORD_BYTES else "free ring"
                yield f"{kind} {edge.source} -> {edge.target} holds {held} entries"

    def audit(self) -> list[str]:
        """A text about each pool with slots in use, and each ring that is not empty.

        The gauges of slots are up to a second old, and a sleeping home leaves slot numbers in its free rings
        until it wakes. So call this at least two seconds after the last traffic.
        """
        problems = list(self.rings_in_use())
        for home, span in self.layout.pools.items():
            counters = self.counters(home).snapshot()
            free, refs = counters["worker_slots_free"], counters["worker_slot_refs_out"]
            if (free, refs) != (span.slot_count, 0):
                problems.append(f"{home}: {free} of {span.slot_count} slots free, {refs} references out")
        return problems

    def renew_handoffs(self, dead: Collection[str]) -> dict[tuple[str, str], dict[str, socket.socket]]:
        """New socket pairs in place of those that dead workers had. Returns these. The caller may close them
        when both workers have their ends."""
        renewed = {pair: _socket_pair(pair) for pair in self.handoffs if set(pair) & set(dead)}
        for pair, ends in renewed.items():
            for end in self.handoffs[pair].values():
                end.close()
            self.handoffs[pair] = ends
        return renewed

    def set_handoffs(self, own: Mapping[tuple[str, str], socket.socket]) -> None:
        """In a successor: its ends of hand-offs, by worker and peer. It has none of the others."""
        for pair, ends in self.handoffs.items():
            for owner, peer in (pair, pair[::-1]):
                if (owner, peer) in own:
                    ends[owner] = own[owner, peer]

    def wake_all(self) -> None:
        """End every worker's sleep, for whatever it waits."""
        for waiter in set(self.waiters.values()):
            waiter.post()

    def close_handoffs(self) -> None:
        """Close all ends of hand-offs in this process."""
        for ends in self.handoffs.values():
            for end in ends.values():
                end.close()

    def close(self) -> None:
        """Close this process's handles. Raises BufferError while views of the segment exist."""
        for waiter in set(self.waiters.values()):
            waiter.close()
        self.close_handoffs()
        for slot in self.arena.slots:
            slot.release()
        self.segment.close()


def _socket_pair(names: tuple[str, str]) -> dict[str, socket.socket]:
    return dict(zip(names, socket_pair(), strict=True))


def by_home(layout: Layout, holdings: Iterable[Mapping[int, int]]) -> dict[str, dict[int, int]]:
    """What several workers hold together of each home's slots: the number of references by slot."""
    found: dict[str, dict[int, int]] = {home: {} for home in layout.pools}
    for held in holdings:
        for slot, number in held.items():
            of_home = found[layout.homes[slot]]
            of_home[slot] = of_home.get(slot, 0) + number
    return found
