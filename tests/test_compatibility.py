"""docs/compatibility.md: every line has a test that exists, or says why it has none."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "compatibility.md"
REFERENCE = re.compile(r"`([\w/]+)::(test_\w+)`")
EXCUSES = ("**differs**", "**untested**")


def rows() -> list[list[str]]:
    """The cells of every line of every table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if not line.startswith(("| ---", "| line |"))
    ]


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_page_has_a_line_for_everything() -> None:
    assert len(rows()) > 120
    assert all(len(row) == 3 for row in rows()), [row for row in rows() if len(row) != 3]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_each_line_has_a_test_that_exists_or_an_excuse(row: list[str]) -> None:
    found = REFERENCE.findall(row[2])
    assert found or any(excuse in row[1] for excuse in EXCUSES), row
    missing = [
        f"{path}::{name}"
        for path, name in found
        if not (file := TESTS / f"{path}.py").exists() or name not in functions_of(file)
    ]
    assert not missing


def test_nothing_in_the_last_column_is_misspelt() -> None:
    for row in rows():
        rest = REFERENCE.sub("", row[2])
        assert not rest.strip(" ,"), row
