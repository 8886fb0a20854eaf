"""Tables and units: alignment, narrow terminals, text of guests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client import units
from pipeline.client.tables import Column, fit, table

COLUMNS = (
    Column("ID", optional=1),
    Column("NAME", shrinks_to=6),
    Column("STATE", shrinks_to=3),
    Column("BYTES", right=True),
)
ROWS = [("1", "a-rather-long-name.example.com", "established", "7"), ("22", "b", "open", "12345678")]


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert table(COLUMNS, ROWS).splitlines() == [
        "ID  NAME                            STATE           BYTES",
        "1   a-rather-long-name.example.com  established         7",
        "22  b                               open         12345678",
    ]
    assert table(COLUMNS, []) == "ID  NAME  STATE  BYTES\n"


def test_a_narrow_terminal_gets_shorter_texts_and_then_fewer_columns() -> None:
    assert table(COLUMNS, ROWS, 40).splitlines() == [
        "ID  NAME           STATE           BYTES",
        "1   a-rather-lon…  established         7",
        "22  b              open         12345678",
    ]
    assert table(COLUMNS, ROWS, 24).splitlines() == [
        "NAME     STATE     BYTES",
        "a-rath…  esta…         7",
        "b        open   12345678",
    ]
    assert table(COLUMNS, ROWS, 5).splitlines()[1] == "a-rat…  es…         7", "numbers stay whole"


def test_columns_of_one_number_go_together() -> None:
    columns = (Column("A"), Column("UP", optional=1), Column("DOWN", optional=1), Column("B"))
    assert table(columns, [], 14) == "A  UP  DOWN  B\n"
    assert table(columns, [], 13) == "A  B\n"


def test_a_column_with_a_least_width_stands_still() -> None:
    columns = (Column("A", right=True, least=4), Column("B"))
    assert table(columns, [("1", "b")]) == "   A  B\n   1  b\n"
    assert table(columns, [("10000", "b")]) == "    A  B\n10000  b\n"
    assert fit(columns, []).titles == ["   A", "B"]


def test_a_column_may_keep_the_end_of_its_texts() -> None:
    columns = (Column("NAME", shrinks_to=6, keeps_end=True),)
    assert table(columns, [("host.example.com:443",)], 8) == "NAME\n…com:443\n"


def test_no_text_commands_the_terminal() -> None:
    (_, line) = table((Column("NAME"),), [("a\x1b[2Jb\nc\x9b\u202e\u00e9",)]).splitlines()
    assert line == "a\\x1b[2Jb\\nc\\x9b\\u202eé"


@given(
    st.lists(st.tuples(*[st.text(max_size=40)] * 4), max_size=5),
    st.integers(min_value=30, max_value=120),
)
def test_every_line_fits_and_no_row_is_lost(rows: list[tuple[str, ...]], width: int) -> None:
    columns = (*COLUMNS[:3], Column("BYTES", shrinks_to=4))
    lines = table(columns, rows, width).split("\n")[:-1]
    assert len(lines) == len(rows) + 1
    assert all(len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (3_400_000_000, "3.4 GB"),
        (10**19, "10000 PB"),
    ],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert units.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (0.26, "0.3s"), (9.96, "10s"), (59.6, "1m0s"), (3599.7, "1h0m"), (90061, "1d1h")],
)
def test_times_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert units.time(seconds) == text
