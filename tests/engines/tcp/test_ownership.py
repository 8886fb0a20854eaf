"""Each attribute of a connection's parts is written by one class: the one that declares it."""

import ast
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[3] / "pipeline" / "engines" / "tcp"
FILES = sorted(ENGINE.glob("*.py"))
SHARED = {"sack.py": {"sent", "last", "copy", "tail", "ranges[index - 1]"}}
"""The scoreboard changes its ranges, which have no methods, in its own file."""


def foreign_writes(source: str) -> list[str]:
    """Stores to attributes of anything but self."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store | ast.Del)
        and ast.unparse(node.value) != "self"
    ]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_no_object_is_changed_from_outside(path: Path) -> None:
    allowed = SHARED.get(path.name, set())
    assert [each for each in foreign_writes(path.read_text()) if each.rpartition(".")[0] not in allowed] == []


def declared(source: str) -> dict[str, set[str]]:
    """The slots of each class."""
    return {
        owner.name: {str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant)}
        for owner in ast.walk(ast.parse(source))
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__"
    }


def test_no_class_knows_everything() -> None:
    sizes = {name: len(slots) for path in FILES for name, slots in declared(path.read_text()).items()}
    assert {"Tcb", "Sender", "Receiver", "Recovery", "Rack", "Probing"} <= set(sizes)
    assert {name for name, count in sizes.items() if count > 40} == set()


def test_such_writes_are_found() -> None:
    source = "class A:\n    def f(self, c):\n        self.a = 1\n        c.snd.b = 2\n        c.d += 1\n"
    assert foreign_writes(source) == ["c.snd.b", "c.d"]
