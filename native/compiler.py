"""Teaches mypyc struct and memoryview, so that compiled code reads and writes memory by itself.

The sources call unpack_from, unpack, pack and pack_into of a Struct, and index memoryviews. mypyc would
compile these as the interpreter runs them: look a method up, make a Python number of each field, a tuple
of all fields, and a number of each index.

With this module, mypyc calls the functions of access.h instead: a *specializer* for each method. It does
so where the format is known (structs.py) and the arguments surely have the types of the fields. It also
calls them instead of a few functions of the package (FUNCTIONS). Everything else is compiled as before.
The sources stay plain Python. Both do the same, and tests/native compares them.

mypyc has no stable interface for this. An import of this module fails if it is too different. ``trial``
finds out whether the rest works. If not, setup.py compiles without it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mypy.nodes import (
    ARG_POS,
    CallExpr,
    ConditionalExpr,
    Expression,
    IntExpr,
    MemberExpr,
    NameExpr,
    OpExpr,
    RefExpr,
)
from mypy.types import Instance, get_proper_type
from mypyc.build import mypycify
from mypyc.ir.ops import ERR_FALSE, ERR_MAGIC, ERR_NEVER, Integer, KeepAlive, TupleSet, Value
from mypyc.ir.rtypes import (
    RType,
    bit_rprimitive,
    bool_rprimitive,
    bytes_rprimitive,
    int64_rprimitive,
    int_rprimitive,
    is_bool_rprimitive,
    is_bytes_rprimitive,
    is_tagged,
    list_rprimitive,
    object_rprimitive,
    pointer_rprimitive,
)
from mypyc.irbuild.builder import IRBuilder
from mypyc.irbuild.specialize import (
    dunder_specializers,
    specialize_dunder,
    specialize_function,
    specializers,
)
from mypyc.primitives.registry import CFunctionDescription, custom_op, function_op, function_ops
from structs import BYTES, FLAG, PAD, STRUCTS, Field, fields_of, layout, values

HERE = Path(__file__).resolve().parent
MYPY_OPTION = f"--config-file={HERE / 'mypy.ini'}"
"""Loads structs.py as a plugin."""
C_OPTIONS = ("-include", str(HERE / "access.h"))

VIEW, INT, LIST = object_rprimitive, int_rprimitive, list_rprimitive
OBJECT = object_rprimitive
PLACE = pointer_rprimitive
"""The address of a struct. Whatever it lies in is kept alive meanwhile."""
SIZE = int64_rprimitive

_DONE = bit_rprimitive
FUNCTIONS: dict[str, tuple[list[RType], RType, str, int]] = {
    "pipeline.counter_block.add": ([VIEW, INT, INT], _DONE, "gvtap_add", ERR_FALSE),
    "pipeline.ipc.entries.part": ([VIEW, INT, INT], VIEW, "gvtap_part", ERR_MAGIC),
    "pipeline.ipc.entries.put_records": ([VIEW, INT, LIST, INT, INT], _DONE, "gvtap_put_records", ERR_FALSE),
    "pipeline.ipc.entries.put_slots": ([VIEW, INT, LIST, INT], _DONE, "gvtap_put_slots", ERR_FALSE),
    "pipeline.ipc.entries.take_slots": ([VIEW, INT, INT], LIST, "gvtap_take_slots", ERR_MAGIC),
    "pipeline.engines.offload.checksum.word_sum": ([VIEW, INT, INT], INT, "gvtap_word_sum", ERR_MAGIC),
    "pipeline.ipc.fence.full_fence": ([], _DONE, "gvtap_full_fence", ERR_NEVER),
    "pipeline.system.socket_calls.set_option": (
        [OBJECT, INT, INT, INT],
        _DONE,
        "gvtap_set_option",
        ERR_FALSE,
    ),
    "pipeline.system.socket_calls.set_linger": ([OBJECT, INT], _DONE, "gvtap_set_linger", ERR_FALSE),
    "pipeline.system.socket_calls.has_peer": ([OBJECT], bool_rprimitive, "gvtap_has_peer", ERR_MAGIC),
    "pipeline.system.socket_calls.receive": ([OBJECT, VIEW], INT, "gvtap_receive", ERR_MAGIC),
    "pipeline.system.socket_calls.send": ([OBJECT, OBJECT], INT, "gvtap_send", ERR_MAGIC),
}
"""Functions of the package: parameters, result, the function of access.h, and how that reports an error."""

_FIND = custom_op([VIEW, INT, SIZE, bit_rprimitive], PLACE, "gvtap_at", ERR_MAGIC)
_ALL = custom_op([VIEW, SIZE], PLACE, "gvtap_all", ERR_MAGIC)
_NEW = custom_op([SIZE], bytes_rprimitive, "gvtap_new", ERR_MAGIC)
_IN_BYTES = custom_op([bytes_rprimitive], PLACE, "gvtap_bytes_at", ERR_NEVER)
_GET = custom_op([VIEW, INT], INT, "gvtap_get", ERR_MAGIC)
_SET = custom_op([VIEW, INT, INT], bit_rprimitive, "gvtap_set", ERR_FALSE)
_TYPES = {BYTES: bytes_rprimitive, FLAG: bool_rprimitive}
_CHECKS = {BYTES: is_bytes_rprimitive, FLAG: is_bool_rprimitive}
_SMALL = (FLAG, "u8", "u16le", "u16be", "u32le", "u32be")
"""Kinds whose values always fit a number without a Python object, so that no load of them can fail."""


def _number(value: int) -> Value:
    return Integer(value, SIZE)


def _place_of(field: Field, at: Value) -> list[Value]:
    """The first arguments of the functions for a field."""
    sized = [_number(field.size)] if field.kind in (BYTES, PAD) else []
    return [at, _number(field.offset), *sized]


def _loader(field: Field) -> CFunctionDescription:
    sized = [SIZE] if field.kind == BYTES else []
    fails = ERR_NEVER if field.kind in _SMALL else ERR_MAGIC
    return custom_op([PLACE, SIZE, *sized], _TYPES.get(field.kind, INT), f"gvtap_load_{field.kind}", fails)


def _storer(field: Field) -> CFunctionDescription:
    args = [PLACE, SIZE, *([SIZE] if field.kind in (BYTES, PAD) else [])]
    if field.kind != PAD:
        args.append(_TYPES.get(field.kind, INT))
    fails = ERR_NEVER if field.kind in (FLAG, BYTES, PAD) else ERR_FALSE
    return custom_op(args, bit_rprimitive, f"gvtap_store_{field.kind}", fails)


def _size_of(fields: list[Field]) -> Value:
    return _number(max((field.offset + field.size for field in fields), default=0))


def _load(builder: IRBuilder, fields: list[Field], at: Value, line: int) -> Value:
    """The values of a struct, as an unboxed tuple."""
    items = [
        builder.call_c(_loader(field), _place_of(field, at), line) for field in fields if field.kind != PAD
    ]
    return builder.add(TupleSet(items, line))


def _store(builder: IRBuilder, fields: list[Field], at: Value, items: list[Value], line: int) -> None:
    """Write these values."""
    rest = iter(items)
    for field in fields:
        value = [] if field.kind == PAD else [next(rest)]
        builder.call_c(_storer(field), [*_place_of(field, at), *value], line)


def _is_int(builder: IRBuilder, value: Expression) -> bool:
    return bool(is_tagged(builder.node_type(value)))


def _is_positional(call: CallExpr) -> bool:
    return all(kind == ARG_POS for kind in call.arg_kinds)


def _fit(builder: IRBuilder, fields: list[Field], args: list[Expression]) -> bool:
    """Whether these arguments surely have the types of the fields."""
    wanted = values(fields)
    return len(wanted) == len(args) and all(
        _CHECKS.get(field.kind, is_tagged)(builder.node_type(arg))
        for field, arg in zip(wanted, args, strict=True)
    )


ACYCLIC = ("pipeline.records.", "pipeline.engines.tcp.", "pipeline.engines.offload.")
"""Packages whose objects never refer to each other in a circle, so Python need not look for that."""
REUSED = {
    *(f"pipeline.records.tcp.{name}" for name in ("TcpRange", "TcpOut")),
    *(f"pipeline.records.udp.{name}" for name in ("UdpRange", "UdpData", "UdpOut", "UdpToGuest")),
    *(f"pipeline.records.streams.{name}" for name in ("Connect", "Taken", "ToGuest", "ToHost", "Shutdown")),
    *(f"pipeline.engines.tcp.actions.{name}" for name in ("Deliver", "Discard", "Release", "Outgoing")),
    "pipeline.engines.tcp.segment.Segment",
    "pipeline.engines.tcp.transmit.Burst",
    "pipeline.engines.offload.burst.Burst",
    "pipeline.engines.offload.gro._Segments",
    "pipeline.engines.offload.gro_sums.Sums",
    *(f"pipeline.engines.offload.gso_headers.{name}" for name in ("TcpHeaders", "TcpHeaders6")),
}
"""Classes of which there is often one object at a time. The next one uses the memory of the last."""

_marked = 0


def _mark(builder: IRBuilder) -> None:
    """Tell mypyc of these classes, as the decorator mypyc_attr would. It asks when it has seen all functions.

    It has no hook for classes, so each specializer calls this.
    """
    global _marked
    classes = builder.mapper.type_to_ir
    if len(classes) == _marked:
        return
    _marked = len(classes)
    for ir in classes.values():
        if not hasattr(ir, "is_acyclic"):
            return  # an older mypyc
        simple = ir.is_ext_class and not (ir.is_trait or ir.is_augmented or ir.builtin_base)
        if simple and all(base.fullname.startswith(ACYCLIC) for base in ir.mro):
            ir.is_acyclic = True
            ir.reuse_freed_instance = ir.fullname in REUSED


@specialize_function("unpack_from", object_rprimitive)
def _unpack_from(builder: IRBuilder, call: CallExpr, callee: RefExpr) -> Value | None:
    _mark(builder)
    fields = fields_of(callee)
    if fields is None or len(call.args) not in (1, 2) or not _is_positional(call):
        return None
    if not all(_is_int(builder, offset) for offset in call.args[1:]):
        return None
    buffer = builder.accept(call.args[0])
    offset = builder.accept(call.args[1]) if len(call.args) == 2 else Integer(0, INT)
    readable = Integer(0, bit_rprimitive)
    at = builder.call_c(_FIND, [buffer, offset, _size_of(fields), readable], call.line)
    result = _load(builder, fields, at, call.line)
    builder.add(KeepAlive([buffer]))
    return result


@specialize_function("unpack", object_rprimitive)
def _unpack(builder: IRBuilder, call: CallExpr, callee: RefExpr) -> Value | None:
    _mark(builder)
    fields = fields_of(callee)
    if fields is None or len(call.args) != 1 or not _is_positional(call):
        return None
    buffer = builder.accept(call.args[0])
    at = builder.call_c(_ALL, [buffer, _size_of(fields)], call.line)
    result = _load(builder, fields, at, call.line)
    builder.add(KeepAlive([buffer]))
    return result


@specialize_function("pack", object_rprimitive)
def _pack(builder: IRBuilder, call: CallExpr, callee: RefExpr) -> Value | None:
    _mark(builder)
    fields = fields_of(callee)
    if fields is None or not _is_positional(call) or not _fit(builder, fields, call.args):
        return None
    items = [builder.accept(arg) for arg in call.args]
    made = builder.call_c(_NEW, [_size_of(fields)], call.line)
    at = builder.call_c(_IN_BYTES, [made], call.line)
    _store(builder, fields, at, items, call.line)
    builder.add(KeepAlive([made]))
    return made


@specialize_function("pack_into", object_rprimitive)
def _pack_into(builder: IRBuilder, call: CallExpr, callee: RefExpr) -> Value | None:
    _mark(builder)
    fields = fields_of(callee)
    if fields is None or len(call.args) < 2 or not _is_positional(call):
        return None
    if not _is_int(builder, call.args[1]) or not _fit(builder, fields, call.args[2:]):
        return None
    buffer, offset, *items = [builder.accept(arg) for arg in call.args]
    writable = Integer(1, bit_rprimitive)
    at = builder.call_c(_FIND, [buffer, offset, _size_of(fields), writable], call.line)
    _store(builder, fields, at, items, call.line)
    builder.add(KeepAlive([buffer]))
    return builder.none()


def _is_view(builder: IRBuilder, base: Expression) -> bool:
    found = builder.types.get(base)
    typ = get_proper_type(found) if found is not None else None
    return isinstance(typ, Instance) and typ.type.fullname == "builtins.memoryview"


def _repeatable(value: Expression) -> bool:
    """Whether an expression only computes, so that it may be evaluated twice."""
    match value:
        case IntExpr() | NameExpr() | MemberExpr():
            return True
        case ConditionalExpr():
            return all(map(_repeatable, (value.cond, value.if_expr, value.else_expr)))
        case OpExpr():
            return _repeatable(value.left) and _repeatable(value.right)
    return False


@specialize_dunder("__getitem__", object_rprimitive)
def _get(builder: IRBuilder, base: Expression, args: list[Expression], whole: Expression) -> Value | None:
    _mark(builder)
    if not _is_view(builder, base) or not _is_int(builder, args[0]) or not _is_int(builder, whole):
        return None
    view = builder.accept(base)
    return builder.call_c(_GET, [view, builder.accept(args[0])], whole.line)


@specialize_dunder("__setitem__", object_rprimitive)
def _set(builder: IRBuilder, base: Expression, args: list[Expression], target: Expression) -> Value | None:
    # mypyc has evaluated the value already, and this evaluates it again.
    if not _is_view(builder, base) or not _repeatable(args[1]):
        return None
    if not _is_int(builder, args[0]) or not _is_int(builder, args[1]):
        return None
    view = builder.accept(base)
    index = builder.accept(args[0])
    builder.call_c(_SET, [view, index, builder.accept(args[1])], target.line)
    return builder.none()


for _name, _description in FUNCTIONS.items():
    function_op(_name, *_description)

_PROBE = """
from struct import Struct
from typing import Final
from pipeline.ipc.fence import full_fence

_ENTRY: Final = Struct("<BH4s")

def probe(view: memoryview, at: int) -> bytes:
    full_fence()
    number, index, text = _ENTRY.unpack_from(view, at)
    view[index] = number
    return _ENTRY.pack(view[index], index, text)
"""
_PROVES = ("gvtap_full_fence", "gvtap_load_u16le", "gvtap_set", "gvtap_get", "gvtap_store_bytes")


def trial() -> str:
    """Compile a few lines to C. Returns why that failed; "" if mypyc does what it was taught."""
    STRUCTS["probe._ENTRY"] = layout("<BH4s") or []
    try:
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "probe.py")
            source.write_text(_PROBE)
            options = [MYPY_OPTION, f"--cache-dir={os.devnull}", "--follow-imports=silent"]
            mypycify([*options, str(source)], target_dir=directory)
            made = "".join(path.read_text() for path in Path(directory).rglob("*.c"))
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    missing = [name for name in _PROVES if f" {name}(" not in made]
    return f"no call of {missing[0]}" if missing else ""


def forget() -> None:
    """Let mypyc compile as it does by itself."""
    for method in ("unpack_from", "unpack", "pack", "pack_into"):
        specializers.pop((method, object_rprimitive), None)
    for method in ("__getitem__", "__setitem__"):
        dunder_specializers.pop((method, object_rprimitive), None)
    for name in FUNCTIONS:
        function_ops.pop(name, None)
