"""All places of the program that log a line or report an event, found with ast."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.events import kind as levels

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {
    "debug": levels.DEBUG,
    "info": levels.INFO,
    "warning": levels.WARNING,
    "error": levels.ERROR,
    "exception": levels.ERROR,
    "critical": levels.CRITICAL,
}
OF_EVERY_LINE = {"kind", "operator", "worker", "pid", "exc_info", "rate"}
"""Keys that are no fields of a kind: they name the writer, or are hints for the log."""


_MAY_CALL = re.compile(rf"\.(?:report|{'|'.join(LEVELS)})\(|\bRepeated\(")
"""What is in each file with such a call. Others are not parsed."""


class Call(NamedTuple):
    """One call. text, kind: "" if it varies or is missing. open: it has more fields than its source shows."""

    place: str
    level: int
    text: str
    kind: str
    fields: frozenset[str]
    open: bool


@functools.cache
def calls() -> list[Call]:
    """All of them."""
    return [
        call
        for path in sorted((ROOT / "pipeline").rglob("*.py"))
        if _MAY_CALL.search(text := path.read_text())
        for call in _of(path, ast.parse(text))
    ]


def _of(path: Path, tree: ast.Module) -> Iterator[Call]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        place = f"{path.relative_to(ROOT)}:{node.lineno}"
        match node.func:
            case ast.Attribute(value=target, attr=method) if method in LEVELS and _is_log(target):
                yield _call(place, LEVELS[method], node, node.args[0])
            case ast.Attribute(value=target, attr="report") if _name(target).endswith(("events", "hub")):
                kind = _constant(node.args[0])
                for each in [kind] if kind else _either(node.args[0]):
                    yield _call(place, 0, node, None)._replace(kind=each)
            case ast.Name(id="Repeated") if len(node.args) > 1:
                call = _call(place, levels.WARNING, node, node.args[1])
                yield call._replace(fields=frozenset({"times"}), open=True)


def _call(place: str, level: int, node: ast.Call, text: ast.expr | None) -> Call:
    named = {each.arg: each.value for each in node.keywords if each.arg is not None}
    kind = _constant(named["kind"]) if "kind" in named else ""
    return Call(
        place,
        level,
        _constant(text) if text is not None else "",
        kind,
        frozenset(named) - OF_EVERY_LINE,
        len(named) < len(node.keywords),
    )


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_log(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return _name(node.func) == "logger"
    return _name(node).endswith("log")


def _constant(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _either(node: ast.expr) -> list[str]:
    """The kinds of an expression: constants of a conditional one, "" for a name."""
    if isinstance(node, ast.IfExp):
        return [_constant(node.body), _constant(node.orelse)]
    return [""]
