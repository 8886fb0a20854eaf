"""What observing costs: the verdicts of the table, and observers that fail. What an idle daemon costs."""

from pathlib import Path

import pytest

from perf import idle, observing, report
from perf.observing import ALONE, OBSERVED


def figures(what: str, alone: list[float], observed: list[float], *, better: bool) -> list[report.Figure]:
    return [
        report.Figure(what, peer, "unit", tuple(samples), better)
        for peer, samples in ((ALONE, alone), (OBSERVED, observed))
    ]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_ratio_is_that_of_the_turns_and_is_compared_with_the_aim() -> None:
    found = [
        *figures("tcp up", [10.0, 5.0] * 3, [9.8, 4.9] * 3, better=True),
        *figures("tcp down", [10.0] * 6, [9.6] * 6, better=True),
        *figures("udp round trip p50", [100.0] * 3, [106.0] * 3, better=False),
        *figures("connect-request-close", [1000.0] * 6, [500.0] * 6, better=True),
    ]
    rows = [cells(line) for line in observing.table(found).splitlines()[2:]]
    assert [(row[4], row[6]) for row in rows] == [
        ("0.980", "0.97: met"),
        ("0.960", "0.97: MISSED"),
        ("0.943", "0.95: open"),
        ("0.500", ""),
    ]


def test_a_daemon_that_is_not_there_cannot_be_observed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), observing.observed(tmp_path, "port=53"):
        pytest.fail("it is not there")


def test_the_idle_daemon_has_a_figure_in_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert idle.main(["--repeat", "1", "--idle-seconds", "0.1", "--no-write"]) == 0
    rows = {cells(line)[0]: cells(line)[2:] for line in capsys.readouterr().out.splitlines()[2:]}
    assert list(rows) == ["-version CPU", "start to ready", "start to ready, CPU", "idle memory", "idle CPU"]
    assert all(float(value) > 0 for value in [*rows["start to ready"], *rows["idle memory"]])
