"""What the sources must not contain because the compiler that makes the wheel (mypyc) gets it wrong."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "pipeline").rglob("*.py"))
}
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
    "pipeline/go/text.py": ["found.end():"],
    "pipeline/ipc/fabric.py": ["at:at + ring_bytes(edge.capacity, edge.entry_bytes)"],
}
"""In modules that are not compiled, or without effect."""


def test_no_bound_of_a_slice_does_anything() -> None:
    found = {name: slices_with_effects(source) for name, source in SOURCES.items()}
    assert {name: slices for name, slices in found.items() if slices} == ALLOWED


def fields_of_object(source: str) -> list[str]:
    """Fields of a NamedTuple declared as object: compiled, the class cannot be made (KeyError: 'object')."""
    return [
        f"{node.name}.{ast.unparse(field.target)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "NamedTuple" for base in node.bases)
        for field in node.body
        if isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation) == "object"
    ]


def test_no_named_tuple_has_a_field_of_object() -> None:
    assert [field for source in SOURCES.values() for field in fields_of_object(source)] == []


def test_such_fields_are_found() -> None:
    assert fields_of_object("class C(NamedTuple):\n    a: int\n    b: object = None") == ["C.b"]
    assert fields_of_object("class C(NamedTuple):\n    b: Handle\nclass D:\n    b: object") == []


def test_such_slices_are_found() -> None:
    assert slices_with_effects("data = data[os.write(fd, data):]") == ["os.write(fd, data):"]
    assert slices_with_effects("data[:n], data[len(x):max(a, b)]") == []
