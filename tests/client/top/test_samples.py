"""What top reads from the page of /metrics."""

import pytest

from pipeline import counters
from pipeline.client.top.samples import Ring, SampleError, Samples
from pipeline.control.metrics.build import Build
from pipeline.control.metrics.page import Readings, page
from pipeline.counter_block import GuestRow
from pipeline.topology import Layout
from tests.support import played_daemon


def test_rings_slots_and_bytes_of_guests_are_found() -> None:
    samples = Samples(played_daemon.metrics(0))
    assert samples.rings_to("tcp0") == [Ring("ingress", 120, 4096), Ring("egress0", 77, 4096)]
    assert samples.rings_to("listen") == []
    assert (samples.slots["ingress"], samples.slots_free["ingress"]) == (256, 211)
    assert samples.guest_bytes["5a:94:ef:e4:0c:ef", "from_guest"] == 640_001_200


def test_the_page_of_this_version_has_them() -> None:
    layout = Layout(64, 1, 1)
    edge = layout.edges[0]
    made = page(
        Readings(
            build=Build("1", "3", "plain"),
            roles={node.name: node.role for node in layout.nodes},
            counters={"ingress": dict.fromkeys(counters.INDEX, 0) | {"worker_slots_free": 7}},
            rings={edge: 5},
            slots={"ingress": 32},
            guests={"02:00:00:00:00:01": GuestRow(1, 10, 1, 20, 2, 0)},
        )
    )
    samples = Samples(made.decode())
    assert samples.rings_to(edge.target) == [Ring(edge.source, 5, edge.capacity)]
    assert (samples.slots["ingress"], samples.slots_free["ingress"]) == (32, 7)
    assert samples.guest_bytes == {
        ("02:00:00:00:00:01", "from_guest"): 10,
        ("02:00:00:00:00:01", "to_guest"): 20,
    }


@pytest.mark.parametrize("page", ["", "\n\n", "<html>", "gvtap_other 1\n", "gvtap_ring_records 5\n"])
def test_a_page_without_them_is_empty(page: str) -> None:
    samples = Samples(page)
    assert (samples.guest_bytes, samples.slots, samples.slots_free) == ({}, {}, {})


def test_values_that_are_no_amounts_are_left_out() -> None:
    lines = [f'gvtap_worker_slots{{worker="{value}"}} {value}' for value in ("NaN", "-1", "+Inf", "3")]
    assert Samples("\n".join(lines)).slots == {"3": 3}


@pytest.mark.parametrize(
    "line", ['gvtap_ring_records{source="a} 5', 'gvtap_ring_records{source="a"} x', "gvtap_ring_records{"]
)
def test_a_broken_page_is_an_error(line: str) -> None:
    with pytest.raises(SampleError, match="/metrics is not in Prometheus' format"):
        Samples(line)
