"""The table of limits."""

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from pipeline.config import limits
from pipeline.counters import INDEX

DOCS = Path(__file__).resolve().parents[2] / "docs" / "limits.md"


def test_the_defaults_are_those_of_the_table() -> None:
    assert {limit.name: limit.default for limit in limits.TABLE} == asdict(limits.Limits())


def test_every_default_is_allowed() -> None:
    assert all(limit.low <= limit.default <= limit.high for limit in limits.TABLE)


def test_every_limit_has_a_counter() -> None:
    assert [limit.name for limit in limits.TABLE if limit.counter not in INDEX] == []


def test_a_guests_part_comes_after_its_whole() -> None:
    for whole, part in pairwise(limits.TABLE):
        assert not part.help.startswith("of them") or part.name == f"{whole.name}_per_guest"


def test_the_documentation_has_the_table_as_it_is() -> None:
    assert limits.table() in DOCS.read_text()
