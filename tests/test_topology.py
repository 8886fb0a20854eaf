"""The graph: whatever the numbers, it is whole, nothing overlaps, and both ends of a ring agree."""

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers

from pipeline.topology import Edge, Layout, Node, Span, TopologyError, check_edges, check_pools

NODES = (Node("a", "a", 0), Node("b", "b", 0))


@settings(deadline=None, max_examples=40)
@given(slots=integers(128, 2000), egress=integers(1, 6))
def test_pools_cover_the_arena_and_ingress_has_half(slots: int, egress: int) -> None:
    layout = Layout(slots, 1, egress)
    taken = [slot for span in layout.pools.values() for slot in range(span.first, sum(span))]
    assert taken == list(range(slots))
    assert len(layout.homes) == slots
    assert layout.pools["ingress"].slot_count == slots // 2
    shares = [layout.pools[name].slot_count for name in layout.shards("egress")]
    assert max(shares) - min(shares) <= 1


def test_the_edges_are_those_of_the_way_of_a_frame() -> None:
    layout = Layout(tcp_workers=2, egress_workers=1)
    assert {(edge.source, edge.target) for edge in layout.edges} == {
        ("ingress", "demux"),
        ("ingress", "tcp0"),
        ("ingress", "tcp1"),
        ("ingress", "egress0"),
        ("egress0", "ingress"),
        ("demux", "ingress"),
        ("demux", "tcp0"),
        ("demux", "tcp1"),
        ("tcp0", "ingress"),
        ("tcp1", "ingress"),
        ("tcp0", "egress0"),
        ("egress0", "tcp0"),
        ("tcp1", "egress0"),
        ("egress0", "tcp1"),
        ("demux", "egress0"),
        ("egress0", "demux"),
        ("demux", "resolver"),
        ("resolver", "demux"),
    }


def test_every_worker_that_can_hold_a_slot_has_a_way_to_its_home() -> None:
    layout = Layout(tcp_workers=2, egress_workers=2)
    ways = {(edge.source, edge.target) for edge in layout.free_edges}
    for holder in ("ingress", "demux", "tcp0", "tcp1", "egress0", "egress1", "resolver"):
        for home in layout.pools:
            between_egresses = holder.startswith("egress") and home.startswith("egress")
            assert ((holder, home) in ways) == (holder != home and not between_egresses)


@pytest.mark.parametrize(
    ("slots", "tcp", "egress"), [(512, 0, 1), (512, 1, 0), (63, 1, 1), (0, 1, 1), (64, 1, 20)]
)
def test_numbers_that_make_no_graph_are_refused(slots: int, tcp: int, egress: int) -> None:
    with pytest.raises(TopologyError):
        Layout(slots, tcp, egress)


@pytest.mark.parametrize(
    ("edges", "complaint"),
    [
        ([Edge("a", "b", 8, 64), Edge("a", "b", 8, 64)], "twice"),
        ([Edge("a", "b", 12, 64)], "power of two"),
        ([Edge("a", "b", 0, 64)], "power of two"),
        ([Edge("a", "a", 8, 64)], "join"),
        ([Edge("a", "c", 8, 64)], "join"),
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(edges: list[Edge], complaint: str) -> None:
    with pytest.raises(TopologyError, match=complaint):
        check_edges(edges, NODES)


@pytest.mark.parametrize(
    "pools",
    [
        {"a": Span(0, 4), "b": Span(3, 5)},
        {"a": Span(0, 4), "b": Span(5, 3)},
        {"a": Span(0, 4), "b": Span(4, 3)},
        {"a": Span(0, 8), "b": Span(8, 0)},
    ],
)
def test_pools_that_overlap_or_leave_a_hole_are_refused(pools: dict[str, Span]) -> None:
    with pytest.raises(TopologyError):
        check_pools(pools, 8)


def test_node_of_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        Layout().node("tcp1")
