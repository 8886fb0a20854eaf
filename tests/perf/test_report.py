"""Tables and result files of measurements."""

import json
from pathlib import Path

import pytest

from perf import report
from perf.peers import PeerError


def samples() -> report.Samples:
    made = report.Samples()
    for value in (1.0, 3.0, 2.0):
        made.add("speed", "pipeline", "Gbit/s", value)
        made.add("delay", "pipeline", "µs", 10 * value, higher_is_better=False)
    made.add("speed", "passt", "Gbit/s", 4.0)
    made.add("delay", "passt", "µs", 40.0, higher_is_better=False)
    return made


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_ratio_over_one_is_better_in_both_kinds_of_row() -> None:
    rows = cells(report.table(samples().figures()))
    assert rows[0] == ["", "unit", "pipeline", "passt", "pipeline vs passt"]
    assert rows[2] == ["speed", "Gbit/s", "2", "4", "0.50"]
    assert rows[3] == ["delay", "µs", "20", "40", "2.00"]


def test_the_interval_of_a_median_leaves_out_what_chance_allows() -> None:
    # In 10 of 512 ways at most one of nine values is on one side (0.04 for both), in 46 at most two.
    assert report.interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 8)
    assert report.interval([6, 5, 4, 3, 2, 1]) == (1, 6)
    assert report.interval([1, 2, 3, 4, 5]) is None
    assert report.interval([]) is None


def test_a_pair_of_rows_says_where_its_ratio_is() -> None:
    lower = report.Figure("trip", "old", "µs", (10.0,) * 6, False, {})
    better = report.Figure("trip", "new", "µs", (5.0, 8.0, 10.0, 10.0, 10.0, 20.0), False, {})
    line = report.pairs([lower, better], "old", "new", lambda _: 0.95).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[3:-1]] == [
        "10",
        "10",
        "1.000",
        "0.50 to 2.00",
        "0.95: open",
    ]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([0.9] * 6, report.MISSED),
        ([1.0] * 6, report.MET),
        ([0.9, *[1.0] * 5], report.OPEN),
        ([0.1] * 5, report.OPEN),
    ],
)
def test_an_aim_is_missed_or_met_only_by_the_whole_interval(values: list[float], word: str) -> None:
    assert report.reached(values, 0.98) == word
    assert report.reached([1 / value for value in values], 1 / 0.98, at_most=True) == word
    old = report.Figure("speed", "old", "1/s", (1.0,) * len(values), True, {})
    new = report.Figure("speed", "new", "1/s", tuple(values), True, {})
    line = report.pairs([old, new], "old", "new", lambda _: 0.98).splitlines()[-1]
    assert line.split("|")[-2].strip() == f"0.98: {word}"


def test_a_missing_cell_is_a_dash() -> None:
    made = samples()
    made.add("only here", "passt", "1/s", 7)
    assert cells(report.table(made.figures()))[-1] == ["only here", "1/s", "-", "7", "-"]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_what_cannot_be_a_figure_is_a_failure(value: float) -> None:
    with pytest.raises(report.MeasurementError):
        report.Samples().add("speed", "passt", "Gbit/s", value)


def test_idle_cpu_may_be_zero_and_has_no_ratio() -> None:
    made = report.Samples()
    for peer in ("pipeline", "passt"):
        made.add("idle", peer, "%", 0.0, higher_is_better=False, may_be_zero=True)
    assert cells(report.table(made.figures()))[-1] == ["idle", "%", "0", "0", "-"]


def test_a_failure_is_noted_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    made = samples()
    with made.attempt():
        raise PeerError("passt died")
    assert made.finish("speed", None) == 1
    printed = capsys.readouterr()
    assert "passt died" in printed.err
    assert "| speed" in printed.out


def test_nothing_measured_is_a_failure() -> None:
    assert report.Samples().finish("speed", None) == 1


def test_the_results_file_has_a_line_for_each_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    assert samples().finish("speed", {"mtu": 1500}) == 0
    lines = [json.loads(text) for text in (tmp_path / "results" / "speed.jsonl").read_text().splitlines()]
    first = lines[0]
    assert (first["what"], first["peer"], first["unit"]) == ("speed", "pipeline", "Gbit/s")
    assert (first["min"], first["median"], first["max"], first["samples"]) == (1.0, 2.0, 3.0, [1.0, 3.0, 2.0])
    assert first["settings"] == {"mtu": 1500}
    assert first["machine"]["cores"] >= 1
    assert {"date", "commit"} <= first.keys()
    assert len(lines) == 4
