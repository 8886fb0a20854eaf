"""docs/tcp-conformance.md: no empty cell, every MUST of RFC 9293, and every test that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "tcp-conformance.md"
SCRIPTS = ROOT / "tests" / "engines" / "tcp" / "scripts"
HIGHEST_MUST = 69
COLUMNS = 5
STATUS = 2
EVIDENCE = 4
MIN_REASON = 20


def rows() -> list[list[str]]:
    """The cells of every row; heads and rules are left out."""
    found = []
    for line in TABLE.read_text().splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] not in ("Requirement", "Claim") and set(cells[0]) != {"-"}:
                found.append(cells)
    return found


def existing() -> set[str]:
    """Names of all test functions and classes, and of all scripts."""
    names = {path.name for path in SCRIPTS.glob("*.txt")}
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        names |= set(re.findall(r"^\s*(?:async )?def (test_\w+)", text, re.MULTILINE))
        names |= set(re.findall(r"^(?:class )?(Test\w+)", text, re.MULTILINE))
    return names


def evidence(row: list[str]) -> list[str]:
    """The tests that a row names."""
    return re.findall(r"`(test_\w+|Test\w+|\w+\.txt)`", row[EVIDENCE])


def test_no_cell_is_empty() -> None:
    assert len(rows()) > HIGHEST_MUST
    for row in rows():
        assert len(row) == COLUMNS, row
        assert all(row), row
        assert row[STATUS] in ("full", "partial", "differs"), row


def test_every_must_of_rfc_9293_has_one_row() -> None:
    numbers = [row[0] for row in rows() if row[0].startswith("MUST-")]
    assert numbers == [f"MUST-{number}" for number in range(1, HIGHEST_MUST + 1)]


def test_every_row_names_tests_that_exist() -> None:
    names = existing()
    for row in rows():
        assert evidence(row), row
        missing = [name for name in evidence(row) if name not in names]
        assert not missing, (row[0], missing)


def test_where_we_differ_the_row_says_why() -> None:
    for row in rows():
        if row[STATUS] != "full":
            reason = re.sub(r"`[^`]*`", "", row[EVIDENCE]).strip(" ,:()")
            assert len(reason) >= MIN_REASON or "as MUST-" in reason, row
