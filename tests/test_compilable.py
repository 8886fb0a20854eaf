"""What the sources must not contain because the compiler that makes the wheel (mypyc) gets it wrong."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "pipeline").rglob("*.py"))
PURE = {"len", "min", "max"}


def effects(node: ast.expr | None) -> list[str]:
    """Calls in an expression that may do something each time they are made."""
    if node is None:
        return []
    return [
        ast.unparse(part)
        for part in ast.walk(node)
        if isinstance(part, ast.NamedExpr | ast.Await | ast.Yield)
        or (isinstance(part, ast.Call) and not (isinstance(part.func, ast.Name) and part.func.id in PURE))
    ]


def slices_with_effects(source: str) -> list[str]:
    """Slices whose bounds do something: compiled, they do it twice when a memoryview is cut."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Slice)
        for bound in (node.lower, node.upper, node.step)
        if effects(bound)
    ]


ALLOWED = {
    "pipeline/control/gotext.py": ["found.end():"],
    "pipeline/control/head.py": ["found.end():", "self._blank_lines():"],
    "pipeline/topology.py": ["at:at + ring_bytes(edge.capacity, edge.entry_bytes)"],
}
"""In modules that are not compiled, or without effect."""


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES])
def test_no_bound_of_a_slice_does_anything(path: Path) -> None:
    found = slices_with_effects(path.read_text())
    assert found == ALLOWED.get(path.relative_to(ROOT).as_posix(), [])


def test_such_slices_are_found() -> None:
    assert slices_with_effects("data = data[os.write(fd, data):]") == ["os.write(fd, data):"]
    assert slices_with_effects("data[:n], data[len(x):max(a, b)]") == []
