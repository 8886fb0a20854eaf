"""The fabric: no parts overlap, both ends of a ring are the same memory, the audit names what is missing."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers

from pipeline.counter_block import CounterBlock
from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.ipc.fabric import PAGE, Fabric, Plan
from pipeline.ipc.ring import ring_bytes
from pipeline.ipc.wake import BELL_BYTES, EventfdWaiter, SemaphoreWaiter
from pipeline.records.streams import Taken
from pipeline.topology import Layout, Node
from tests.support.pools import audit

NODES = (Node("a", "a", 0), Node("b", "b", 0))


@settings(deadline=None, max_examples=40)
@given(slots=integers(128, 2000), tcp=integers(1, 6), egress=integers(1, 6))
def test_no_part_of_the_segment_overlaps_another(slots: int, tcp: int, egress: int) -> None:
    layout = Layout(slots, tcp, egress)
    plan = Plan(layout)
    parts = [(at, BELL_BYTES) for at in plan.bell_offsets.values()]
    parts += [(at, CounterBlock.BYTES) for at in plan.counter_offsets.values()]
    parts += [(at, ring_bytes(edge.capacity, edge.entry_bytes)) for edge, at in plan.ring_offsets.items()]
    parts.append((plan.slots_offset, slots * SLOT_BYTES))
    parts.sort()
    for (at, size), (following, _) in pairwise(parts):
        assert at % 64 == 0
        assert at + size <= following
    assert plan.slots_offset % PAGE == 0
    assert sum(parts[-1]) == plan.size_bytes


@pytest.fixture
def fabric() -> Fabric:
    return Fabric.create(Layout(64, 2, 2))


def test_both_ends_of_every_ring_are_the_same_memory(fabric: Fabric) -> None:
    ports = {name: fabric.ports(name) for name in fabric.layout.names}
    for number, edge in enumerate(fabric.layout.edges):
        out = ports[edge.source].rings_out[edge.target]
        out.push(Taken.pack(number, 0))
        out.publish()
    for number, edge in enumerate(fabric.layout.edges):
        got = ports[edge.target].rings_in[edge.source]
        assert bytes(got.peek()) == Taken.pack(number, 0)
        got.release(1)
    for number, edge in enumerate(fabric.layout.free_edges):
        ports[edge.source].free_out[edge.target].push(number)
        ports[edge.source].free_out[edge.target].publish()
    for number, edge in enumerate(fabric.layout.free_edges):
        assert ports[edge.target].free_in[edge.source].drain() == [number]
    assert list(fabric.rings_in_use()) == []


def test_ports_name_the_worker_its_shard_and_its_peers(fabric: Fabric) -> None:
    ports = fabric.ports("egress1")
    assert (ports.name, ports.role, ports.index) == ("egress1", "egress", 1)
    assert set(ports.bells) == set(fabric.layout.names) - {"egress1"}
    assert set(ports.rings_in) == set(ports.rings_out) == {"tcp0", "tcp1", "demux", "ingress"}
    assert set(ports.handoffs) == {"listen"}
    assert set(fabric.ports("listen").handoffs) == {"egress0", "egress1"}
    assert ports.pool is not None
    assert ports.home_of(ports.pool.first) == "egress1"
    assert fabric.ports("tcp0").pool is None


def test_workers_with_sockets_wait_on_a_descriptor_and_the_others_on_a_semaphore(fabric: Fabric) -> None:
    for name, waiter in fabric.waiters.items():
        expected = SemaphoreWaiter if name[:3] in ("dem", "tcp") else EventfdWaiter
        assert isinstance(waiter, expected), name


def test_counters_of_workers_are_apart(fabric: Fabric) -> None:
    for number, name in enumerate(fabric.layout.names):
        fabric.counters(name).set("worker_breaths", number + 1)
    for number, name in enumerate(fabric.layout.names):
        assert fabric.counters(name).snapshot()["worker_breaths"] == number + 1


def test_audit_names_what_is_not_home(fabric: Fabric) -> None:
    for home, span in fabric.layout.pools.items():
        fabric.counters(home).set("worker_slots_free", span.slot_count)
    assert fabric.audit() == []
    fabric.counters("demux").set("worker_slot_refs_out", 2)
    fabric.counters("demux").set("worker_slots_free", fabric.layout.pools["demux"].slot_count - 1)
    ring = fabric.ports("tcp0").rings_out["ingress"]
    ring.push(Taken.pack(0, 0))
    ring.publish()
    problems = fabric.audit()
    assert len(problems) == 2
    assert "tcp0 -> ingress holds 1" in problems[0]
    assert "demux: 3 of 4 slots free, 2 references out" in problems[1]


def test_audit_of_pools_in_one_process_names_each_fault() -> None:
    layout = Layout(64)
    pools = {home: Pool(*span) for home, span in layout.pools.items()}
    assert audit(layout, pools) == []
    pools["ingress"].alloc()
    del pools["resolver"]
    pools["stray"] = Pool(0, 1)
    problems = audit(layout, pools)
    assert len(problems) == 3
    assert any("ingress: 31 of 32 slots free, 1 references out" in problem for problem in problems)


def test_close_gives_descriptors_back() -> None:
    fabric = Fabric.create(Layout(64))
    end = fabric.handoffs["listen", "egress0"]["listen"]
    fabric.close()
    assert end.fileno() == -1
