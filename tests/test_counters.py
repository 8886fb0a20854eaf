"""Names used in code = names in the table of counters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.counter_block import CounterBlock
from pipeline.counters import INDEX, TABLE

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")
LOOKS_LIKE_A_DROP = re.compile(r"[a-z0-9]+_[a-z0-9_]*(dropped|refused)_[a-z0-9_]+")
SOURCES = [
    path
    for top in ("pipeline", "guest")
    for path in sorted((ROOT / top).rglob("*.py"))
    if path != ROOT / "pipeline" / "counters.py" and path.parent.name != "counter_tables"
]


def constants(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno


def counted_here(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Literals that must be counters: WireError("..."), INDEX["..."], and every name of a drop."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "WireError":
            yield from (pair for arg in node.args for pair in constants(arg))
        elif (
            isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "INDEX"
        ):
            yield from constants(node.slice)
    yield from ((text, line) for text, line in constants(tree) if LOOKS_LIKE_A_DROP.fullmatch(text))


def test_every_name_in_code_is_in_the_table() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in SOURCES
        for name, line in counted_here(ast.parse(path.read_text()))
        if name not in INDEX
    ]
    assert not wrong, "\n".join(wrong)


def test_every_row_of_the_table_is_used_in_code() -> None:
    used = {text for path in SOURCES for text, _ in constants(ast.parse(path.read_text()))}
    assert not [name for name in INDEX if name not in used]


def test_names_are_unique_and_well_formed() -> None:
    assert len(INDEX) == len(TABLE)
    assert not [row.name for row in TABLE if not NAME.fullmatch(row.name)]


def test_rows_have_a_unit_a_help_text_and_a_known_kind() -> None:
    assert not [row for row in TABLE if not row.unit or not row.help or row.kind not in ("counter", "gauge")]


def test_a_block_keeps_each_counter_for_itself() -> None:
    block = CounterBlock(memoryview(bytearray(CounterBlock.BYTES)))
    for row in TABLE:
        block.add(row.name)
    block.add(TABLE[-1].name, 4)
    assert block.snapshot() == {row.name: 1 for row in TABLE[:-1]} | {TABLE[-1].name: 5}
    block.set(TABLE[0].name, 9)
    assert block.counts[0] == 9
