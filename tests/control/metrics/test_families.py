"""The names of metrics: rules, and which worker has which of them."""

import ast
from collections.abc import Iterable

import pytest

from pipeline import counters, histograms
from pipeline.control.metrics import families
from pipeline.control.metrics.families import FAMILIES, WORKERS, place, plural, writers
from tests.test_layers import MODULES, imports

NOT_COUNTED_HERE = (
    *("pipeline.counters", "pipeline.histograms", "pipeline.config.limits"),
    *("pipeline.control.http.stats", "pipeline.control.metrics.families"),
)
"""Modules that name counters and count none."""


def closure(first: Iterable[str]) -> set[str]:
    """The modules of ours that these import, directly or not."""
    seen: set[str] = set()
    left = list(first)
    while left:
        module = left.pop()
        if module in MODULES and module not in seen and module not in NOT_COUNTED_HERE:
            seen.add(module)
            left += [name for name, _ in imports(MODULES[module])]
    return seen


def literals(modules: Iterable[str]) -> set[str]:
    """All strings in the sources of these modules."""
    return {
        node.value
        for module in modules
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("role", [*WORKERS, families.SUPERVISOR])
def test_a_worker_has_only_series_that_its_code_can_change(role: str) -> None:
    if role == families.SUPERVISOR:
        modules = {
            name
            for name in MODULES
            if name.startswith(("pipeline.control", "pipeline.daemon", "pipeline.fleet"))
        }
        modules -= set(NOT_COUNTED_HERE)
    else:
        # processes.py counts the lost log lines of every worker.
        modules = closure([f"pipeline.stages.{role}.stage"]) | {"pipeline.daemon.processes"}
    named = literals(modules)
    rows = [row.name for row in (*counters.TABLE, *histograms.TABLE)]
    assert not [name for name in rows if role in writers(name) and name not in named]


def test_every_row_is_counted_by_some_worker() -> None:
    known = {*WORKERS, families.SUPERVISOR}
    for row in (*counters.TABLE, *histograms.TABLE):
        assert writers(row.name)
        assert set(writers(row.name)) <= known, row.name


def test_an_unknown_layer_has_to_be_entered() -> None:
    with pytest.raises(KeyError, match="no entry of WRITERS"):
        writers("teleport_frame_dropped_runt")


def test_the_entries_of_rows_that_are_gone_are_gone() -> None:
    rows = [row.name for row in (*counters.TABLE, *histograms.TABLE)]
    assert set(families.IRREGULAR) <= set(rows)
    for key in families.WRITERS:
        assert [name for name in rows if f"{name}_".startswith(f"{key}_")], key


@pytest.mark.parametrize(
    "name, family, label, value",
    [
        ("tcp_segment_dropped_paws", "tcp_segments_dropped", "cause", "paws"),
        ("dns_query_refused_waited_too_long", "dns_queries_refused", "cause", "waited_too_long"),
        ("egress_connection_reset_by_host", "egress_connections_reset", "cause", "by_host"),
        ("link_bytes_from_guest", "link_bytes", "direction", "from_guest"),
        ("dhcp_bootp_reply_sent", "dhcp_bootp_replies_sent", "", ""),
        ("icmp_echo_flow_evicted", "icmp_echo_flows_evicted", "", ""),
        ("tcp_flows", "tcp_flows", "", ""),
        ("egress_bytes_spilled", "egress_spilled_bytes", "", ""),
        ("worker_busy", "worker_busy_seconds", "", ""),
        ("tcp_reset_sent_no_flow", "tcp_resets_sent", "cause", "no_flow"),
        ("switch_macs", "switch_macs", "", ""),
    ],
)
def test_names(name: str, family: str, label: str, value: str) -> None:
    row = counters.TABLE[counters.INDEX[name]]
    assert place(row) == (family, label, value)


@pytest.mark.parametrize(
    "word, many", [("query", "queries"), ("echo", "echoes"), ("replies", "replies"), ("key", "keys")]
)
def test_plurals(word: str, many: str) -> None:
    assert plural(word) == many


def test_each_series_is_unique_and_a_family_has_one_kind_and_one_label() -> None:
    for family in FAMILIES:
        assert len({series.label for series in family.series}) == 1, family.name
        assert len({series.value for series in family.series}) == len(family.series), family.name
        assert {series.row.kind for series in family.series} == {family.kind}, family.name
        assert family.label or len(family.series) == 1
        assert all(bool(series.value) == bool(family.label) for series in family.series)
    assert sum(len(family.series) for family in FAMILIES) == len(counters.TABLE)
    names = [family.name for family in FAMILIES] + sorted(
        {families.histogram_name(row) for row in histograms.TABLE}
    )
    assert len(set(names)) == len(names)


def test_the_cause_of_a_drop_is_never_a_part_of_a_name() -> None:
    for row in counters.TABLE:
        if "_dropped_" in row.name:
            family, label, value = place(row)
            assert family.endswith("_dropped"), row.name
            assert (label, row.name.endswith(f"_dropped_{value}")) == ("cause", True), row.name
