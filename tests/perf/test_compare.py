"""Two checkouts in turns: what is read from the measurements' output, and the table."""

import pytest

from perf import compare, report

PRINTED = """
|                   | unit   | pipeline |
| ---               | ---    |     ---: |
| tcp up mtu 1500   | Gbit/s |    5.201 |
| connect-request-close | 1/s  |     2028 |
"""


def test_rows_of_a_table_are_read() -> None:
    assert list(compare.rows(PRINTED)) == [
        ("tcp up mtu 1500", "Gbit/s", 5.201),
        ("connect-request-close", "1/s", 2028.0),
    ]


def test_the_tables_of_the_measurements_are_such_tables() -> None:
    figure = report.Figure("tcp up mtu 1500", "pipeline", "Gbit/s", (4.0, 5.0, 6.0), True, {})
    assert list(compare.rows(report.table([figure]))) == [("tcp up mtu 1500", "Gbit/s", 5.0)]


def test_the_round_trip_is_read_among_log_lines() -> None:
    printed = '2026-11-29 [info] guest\n{"tcp": {"median": 34.5}, "udp": {"median": 26.1}}\n'
    assert [value for _, _, value in compare.round_trips(printed)] == [34.5, 26.1]


def test_a_ratio_over_one_means_that_the_second_is_better() -> None:
    before: compare.Samples = {("up", "Gbit/s"): [4.0, 5.0, 6.0], ("trip", "µs"): [30.0, 40.0, 50.0]}
    after: compare.Samples = {("up", "Gbit/s"): [8.0, 10.0, 6.0], ("trip", "µs"): [60.0, 80.0, 25.0]}
    up, trip = compare.table(before, after).splitlines()[2:]
    assert up == "| up | Gbit/s | 5 | 8 | 1.60 | 2.00 |"
    assert trip == "| trip | µs | 40 | 60 | 0.67 | 0.50 |"


def test_every_round_is_needed_of_both() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare.table({("up", "1/s"): [1.0]}, {("up", "1/s"): [1.0, 2.0]})
