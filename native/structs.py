"""Tells mypy which fields a struct has: a plugin.

The type of what Struct.unpack and unpack_from return is otherwise a tuple of anything. The plugin knows
each struct of the package whose format is a literal: ``NAME: Final = Struct("<BxHI")``. So a wrong number
of names, or a name of another type, is an error of the type check. The compiler needs no run-time check
of these fields, and compiler.py can read them straight from memory.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mypy.nodes import CallExpr, Expression, MemberExpr, RefExpr
from mypy.plugin import MethodContext, Plugin
from mypy.types import AnyType, TupleType, Type, TypeOfAny

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pipeline"
PAD = "pad"
BYTES = "bytes"
FLAG = "flag"
NUMBERS = {"B": "u8", "H": "u16", "I": "u32", "L": "u32", "Q": "u64"}
SIZES = {"x": 1, "s": 1, "?": 1, "B": 1, "H": 2, "I": 4, "L": 4, "Q": 8}
ORDERS = {"<": "le", ">": "be", "!": "be"}
TYPES = {BYTES: "builtins.bytes", FLAG: "builtins.bool"}


class Field(NamedTuple):
    """A field of a struct. kind: PAD is no value, BYTES, FLAG, or a number such as "u8" and "u16le"."""

    kind: str
    offset: int
    size: int


def layout(text: str) -> list[Field] | None:
    """The fields and pad bytes of a format; None if it has others, or the order or size of the machine."""
    order = ORDERS.get(text[:1])
    parts = re.findall(r"(\d*)([a-zA-Z?])", text[1:])
    if order is None or "".join(count + code for count, code in parts) != text[1:]:
        return None
    fields: list[Field] = []
    at = 0
    for count, code in parts:
        if code not in SIZES:
            return None
        size, times = SIZES[code], int(count or 1)
        if code in "xs":
            fields.append(Field(PAD if code == "x" else BYTES, at, times))
        else:
            kind = NUMBERS.get(code, FLAG) + (order if size > 1 else "")
            fields += [Field(kind, at + i * size, size) for i in range(times)]
        at += times * size
    return fields


def values(fields: list[Field]) -> list[Field]:
    """The fields that are values: all but pad bytes."""
    return [field for field in fields if field.kind != PAD]


def _find_structs() -> dict[str, list[Field]]:
    """The fields of each struct of the package, by its full name."""
    found: dict[str, list[Field]] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.AnnAssign(
                    target=ast.Name(name),
                    annotation=ast.Name("Final"),
                    value=ast.Call(
                        func=ast.Name("Struct") | ast.Attribute(attr="Struct"), args=[ast.Constant(str(text))]
                    ),
                ) if (fields := layout(text)) is not None:
                    found[f"{module}.{name}"] = fields
    return found


STRUCTS = _find_structs()


def fields_of(callee: Expression) -> list[Field] | None:
    """The fields of the struct whose method is called; None if they are not known."""
    if isinstance(callee, MemberExpr) and isinstance(callee.expr, RefExpr):
        return STRUCTS.get(callee.expr.fullname or "")
    return None


class StructPlugin(Plugin):
    """Gives unpack and unpack_from the type of the tuple that they return."""

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """See Plugin."""
        return _unpacked if fullname in ("_struct.Struct.unpack", "_struct.Struct.unpack_from") else None


def _unpacked(context: MethodContext) -> Type:
    call = context.context
    fields = fields_of(call.callee) if isinstance(call, CallExpr) else None
    if fields is None:
        return context.default_return_type
    named = context.api.named_generic_type
    items: list[Type] = [named(TYPES.get(field.kind, "builtins.int"), []) for field in values(fields)]
    return TupleType(items, named("builtins.tuple", [AnyType(TypeOfAny.special_form)]))


def plugin(_version: str) -> type[Plugin]:
    """What mypy calls."""
    return StructPlugin
