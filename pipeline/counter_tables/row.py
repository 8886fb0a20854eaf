"""A row of the table of counters."""

from typing import NamedTuple


class Counter(NamedTuple):
    """One row. kind: "counter" (it only grows) or "gauge" (a level)."""

    name: str
    unit: str
    help: str
    kind: str = "counter"
