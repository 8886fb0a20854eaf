"""Lines that could fill the log: one at once, then one a period that says how often."""

from types import SimpleNamespace
from typing import Any

from pipeline.control.repeated import Repeated


def test_a_line_comes_once_a_period_with_the_number_of_times() -> None:
    lines: list[tuple[str, dict[str, object]]] = []
    log: Any = SimpleNamespace(warning=lambda event, **details: lines.append((event, details)))
    repeated = Repeated(log, "refused", period=10.0)
    for tenth in range(1, 251):
        repeated.warning(100 + tenth / 10, client=tenth)
    assert lines == [
        ("refused", {"times": 1, "client": 1}),
        ("refused", {"times": 100, "client": 101}),
        ("refused", {"times": 100, "client": 201}),
    ]
