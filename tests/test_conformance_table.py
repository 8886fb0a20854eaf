"""The tables of conformance in docs: no empty cell, and every test that they name exists.

The table of TCP has every MUST of RFC 9293. That of IPv6 has a row for every section that says what a server
of DHCPv6 does (RFC 8415).
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TCP = "tcp-conformance.md"
IPV6 = "ipv6-conformance.md"
TABLES = pytest.mark.parametrize("page", [TCP, IPV6])
SCRIPTS = ROOT / "tests" / "engines" / "tcp" / "scripts"
HIGHEST_MUST = 69
COLUMNS = 5
STATUS = 2
EVIDENCE = 4
MIN_REASON = 20
SERVER_SECTIONS = (
    *(f"16.{number}" for number in range(2, 13)),
    *(f"18.3.{number}" for number in range(1, 12)),
    "18.4",
)
"""The sections of RFC 8415 about the messages that a server gets, and its answers."""


def rows(page: str) -> list[list[str]]:
    """The cells of every row; heads and rules are left out."""
    found = []
    for line in (ROOT / "docs" / page).read_text().splitlines():
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


@TABLES
def test_no_cell_is_empty(page: str) -> None:
    assert rows(page)
    for row in rows(page):
        assert len(row) == COLUMNS, row
        assert all(row), row
        assert row[STATUS] in ("full", "partial", "differs"), row


def test_every_must_of_rfc_9293_has_one_row() -> None:
    numbers = [row[0] for row in rows(TCP) if row[0].startswith("MUST-")]
    assert numbers == [f"MUST-{number}" for number in range(1, HIGHEST_MUST + 1)]


def test_every_section_about_servers_of_dhcpv6_has_a_row() -> None:
    found = {section for row in rows(IPV6) for section in re.split(", ?", row[0])}
    assert not [section for section in SERVER_SECTIONS if section not in found]


@TABLES
def test_every_row_names_tests_that_exist(page: str) -> None:
    names = existing()
    for row in rows(page):
        assert evidence(row), row
        missing = [name for name in evidence(row) if name not in names]
        assert not missing, (row[0], missing)


@TABLES
def test_where_we_differ_the_row_says_why(page: str) -> None:
    for row in rows(page):
        if row[STATUS] != "full":
            reason = re.sub(r"`[^`]*`", "", row[EVIDENCE]).strip(" ,:()")
            assert len(reason) >= MIN_REASON or "as MUST-" in reason, row
