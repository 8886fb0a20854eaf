"""Reads a page of ``/metrics`` back into rows of the table of counters, and runs promtool."""

import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import counters
from pipeline.control.metrics.families import FAMILIES


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Each sample by its name and labels."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def counted(text: str) -> dict[str, dict[str, int]]:
    """The values of each row of the table by worker."""
    rows = {
        (family.name + ("_total" if family.kind == "counter" else ""), series.value): series
        for family in FAMILIES
        for series in family.series
    }
    found: dict[str, dict[str, int]] = {row.name: {} for row in counters.TABLE}
    for (name, labels), value in samples(text).items():
        told = dict(labels)
        worker = told.pop("worker", "")
        series = rows.get((name, next(iter(told.values()), "")))
        if series is not None:
            found[series.row.name][worker] = round(value * series.divisor)
    return found


def promtool(*words: str, text: str = "") -> str:
    """What promtool prints for this command line and standard input. Skips the test where it is missing."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is missing (Debian: prometheus)")
    done = subprocess.run(
        [program, *words], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    return f"{done.stdout}{f'status {done.returncode}' if done.returncode else ''}"
