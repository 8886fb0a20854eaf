"""Reads a page of ``/metrics`` back into rows of the table of counters, and runs promtool."""

import re
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import counters
from pipeline.control.metrics.families import FAMILIES

_SAMPLE = re.compile(
    r'^(gvtap_\w+)\{(?:host="[^"]*",)?(?:(?:cause|direction|source)="(\w+)",)?(?:host="[^"]*",)?'
    r'worker="(\w+)"\} (\S+)$',
    re.MULTILINE,
)
_ROWS = {
    (family.name + ("_total" if family.kind == "counter" else ""), series.value): series
    for family in FAMILIES
    for series in family.series
}
"""The row of a sample, by its name and the value of its label beside the worker."""


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
    """The values of each row of the table by worker. Fast enough for a loop that waits for one."""
    found: dict[str, dict[str, int]] = {row.name: {} for row in counters.TABLE}
    for name, value, worker, number in _SAMPLE.findall(text):
        series = _ROWS.get((name, value))
        if series is not None:
            found[series.row.name][worker] = round(float(number) * series.divisor)
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
