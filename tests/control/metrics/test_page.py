"""The page of /metrics: only series that can change, Prometheus' conventions, bounded labels."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import counters, histograms
from pipeline.control.metrics import page as pages
from pipeline.control.metrics import processes
from pipeline.control.metrics.build import Build
from pipeline.control.metrics.families import SUPERVISOR, writers
from pipeline.control.metrics.guest_rows import OTHER_GUESTS, name_guests
from pipeline.control.metrics.page import Readings
from pipeline.counter_block import OTHERS, GuestRow
from pipeline.system.sandbox import privileges
from pipeline.topology import Layout
from tests.support.in_child import in_child
from tests.support.metrics import counted, promtool, samples

LAYOUT = Layout(64, tcp_workers=2)
ROLES = {node.name: node.role for node in LAYOUT.nodes} | {SUPERVISOR: SUPERVISOR}
BUILD = Build("1.2.3", "3.11.2", "plain")
MAC = "5a:94:ef:e4:0c:ee"


def readings(counts: dict[str, dict[str, int]] | None = None, **others: Any) -> Readings:
    """What all workers say: 0, but for these counts."""
    every = {worker: dict.fromkeys(counters.INDEX, 0) for worker in LAYOUT.names} | {SUPERVISOR: {}}
    for worker, values in (counts or {}).items():
        every[worker] |= values
    return Readings(BUILD, ROLES, every, **others)


def full_page() -> str:
    """A page with a sample of everything."""
    words = {row.name: [1] * row.words for row in histograms.TABLE}
    return pages.page(
        readings(
            histograms=dict.fromkeys(LAYOUT.names, words),
            rings=dict.fromkeys(LAYOUT.edges, 3),
            slots={home: span.slot_count for home, span in LAYOUT.pools.items()},
            guests={MAC: GuestRow(1, 10, 2, 30, 4, 5)},
            pids={SUPERVISOR: os.getpid()},
        )
    ).decode()


def test_promtool_has_nothing_to_say() -> None:
    assert promtool("check", "metrics", text=full_page()) == ""


def test_a_worker_has_the_series_that_it_can_change_and_no_others() -> None:
    found = counted(pages.page(readings()).decode())
    for name, values in found.items():
        assert set(values) == {worker for worker, role in ROLES.items() if role in writers(name)}, name
    zeros = sum(len(values) for values in found.values())
    assert zeros < len(counters.TABLE) * len(LAYOUT.names) / 5


def test_a_count_is_shown_though_the_table_does_not_expect_it() -> None:
    found = counted(pages.page(readings({"listen": {"tcp_segment_dropped_paws": 2}})).decode())
    assert found["tcp_segment_dropped_paws"] == {"tcp0": 0, "tcp1": 0, "listen": 2}


def test_causes_are_labels_and_times_are_seconds() -> None:
    text = pages.page(
        readings({"tcp1": {"tcp_segment_dropped_paws": 7, "worker_busy": 1_500_000}, SUPERVISOR: {}})
    ).decode()
    assert 'gvtap_tcp_segments_dropped_total{cause="paws",worker="tcp1"} 7.0\n' in text
    assert 'gvtap_worker_busy_seconds_total{worker="tcp1"} 1.5\n' in text
    assert "# TYPE gvtap_tcp_segments_dropped_total counter\n" in text


def test_in_a_fleet_every_series_names_its_host_and_no_other() -> None:
    text = pages.page(
        readings(
            histograms={"egress0": {row.name: [1] * row.words for row in histograms.TABLE}},
            guests={MAC: GuestRow(1, 10, 2, 30, 4, 5)},
            rings=dict.fromkeys(LAYOUT.edges, 3),
            pids={SUPERVISOR: os.getpid()},
            host="alpha",
        )
    ).decode()
    found = samples(text)
    assert found.keys() >= {
        ("gvtap_guest_frames_dropped_total", frozenset({("guest", MAC), ("host", "alpha")}))
    }
    assert {dict(labels).get("host") for _, labels in found} == {"alpha"}
    assert promtool("check", "metrics", text=text) == ""


def test_without_a_fleet_no_series_has_a_host() -> None:
    assert not [name for name, labels in samples(full_page()) if "host" in dict(labels)]


def test_the_build_is_one_sample() -> None:
    labels = 'data_path="plain",python="3.11.2",version="1.2.3"'
    assert f"gvtap_build_info{{{labels}}} 1.0\n" in pages.page(readings()).decode()


def test_buckets_are_cumulative_and_in_base_units() -> None:
    row = histograms.BY_NAME["tcp_connect"]
    counts = memoryview(bytearray((row.at + row.words) * 8)).cast("Q")
    for seconds in (0.00005, 0.0001, 0.002, 0.002, 60.0):
        row.observe_seconds(counts, seconds)
    words = {"egress0": {"tcp_connect": counts[row.at : row.at + row.words].tolist()}}
    found = samples(pages.page(readings(histograms=words)).decode())
    name = "gvtap_tcp_connect_seconds"
    at = {dict(labels)["le"]: value for (which, labels), value in found.items() if which == f"{name}_bucket"}
    assert (at["0.0001"], at["0.001"], at["0.0025"], at["10.0"], at["+Inf"]) == (2, 2, 4, 4, 5)
    worker = frozenset({("worker", "egress0")})
    assert found[f"{name}_count", worker] == 5
    assert found[f"{name}_sum", worker] == pytest.approx(60.00415)


def test_a_value_at_a_bound_belongs_below_it() -> None:
    row = histograms.BY_NAME["tcp_flow_from_guest"]
    counts = memoryview(bytearray((row.at + row.words) * 8)).cast("Q")
    for value in (0, 1_000, 1_001, 10**12):
        row.observe(counts, value)
    assert counts[row.at : row.at + row.words].tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 1, 10**12 + 2001]


def test_guests_are_named_by_the_first_mac_address_of_their_link() -> None:
    rows = [GuestRow(1, *[1] * 5), GuestRow(2, *[2] * 5), GuestRow(3, *[3] * 5), GuestRow(OTHERS, *[9] * 5)]
    named = name_guests(rows, {"a": 3, "b": 1, "c": 3})
    assert {name: row.bytes_to_guest for name, row in named.items()} == {"b": 1, "a": 3, OTHER_GUESTS: 9}


def test_what_a_guest_sent_and_got_has_its_direction() -> None:
    found = samples(full_page())
    both = {"from_guest": 10, "to_guest": 30}
    for direction, size in both.items():
        labels = frozenset({("guest", MAC), ("direction", direction)})
        assert found["gvtap_guest_bytes_total", labels] == size
    assert found["gvtap_guest_frames_dropped_total", frozenset({("guest", MAC)})] == 5


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_processes_have_the_usual_metrics() -> None:
    families = {family.name: family for family in text_string_to_metric_families(full_page())}
    for name in ("cpu_seconds", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        sample = families[f"process_{name}"].samples[0]
        assert sample.labels == {"worker": SUPERVISOR}
        assert sample.value > 0


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root of Linux")
def test_descriptors_of_a_process_that_hides_are_counted_in_the_folder_that_it_gave() -> None:
    folder = os.open("/proc/self/fd", os.O_RDONLY)
    pid = os.getpid()

    def run() -> list[dict[str, float]]:
        privileges.become(privileges.find("nobody"))
        families = [processes.collect({"worker": pid}, files) for files in ({}, {"worker": folder})]
        return [{each.name: each.samples[0].value for each in found} for found in families]

    without, given = in_child(run)
    os.close(folder)
    assert given.keys() - without.keys() == {"process_open_fds", "process_max_fds"}
    assert given["process_open_fds"] > 3


def test_every_family_has_a_help_text() -> None:
    for family in text_string_to_metric_families(full_page()):
        assert len(family.documentation) > 5, family.name
