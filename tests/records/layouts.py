"""Arbitrary fields for every kind of record, and the record that they make."""

import inspect
from typing import Any

from hypothesis import strategies as st

from pipeline.records import kinds
from pipeline.records.run import Run
from pipeline.records.tcp import MAX_SACK, MAX_SACK_WITH_DATA
from tests.support.layouts import CLASSES, fields_of

U8 = st.integers(0, 0xFF)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)

_BYTES = ("flags", "header_len", "hops_left", "type", "code", "protocol")
_WORDS = ("link", "stride", "piece_size", "window", "mss", "guest_port", "identifier", "sequence")
_BOOLEANS = (
    "vnet", "borrowed", "has_timestamps", "has_other_options", "sack_permitted", "after_steered", "both",
    "final", "dont_fragment",
)  # fmt: skip


def _field(cls: type, name: str) -> st.SearchStrategy[Any]:
    if name in _BOOLEANS:
        return st.booleans()
    if name == "key":
        return st.binary(min_size=12, max_size=12)
    if name == "mac":
        return st.binary(min_size=6, max_size=6)
    if name == "window_scale":
        return st.integers(-1, 14)
    if name == "sack":
        return st.lists(st.tuples(U32, U32), max_size=MAX_SACK).map(tuple)
    if (cls.__name__, name) == ("Window", "window"):
        return U32
    return U8 if name in _BYTES else U16 if name in _WORDS else U32


def _possible(kind: int, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, without a contradiction between them."""
    if kind == kinds.TCP_OUT:
        if fields["length"]:
            fields["sack"] = fields["sack"][:MAX_SACK_WITH_DATA]
        elif len(fields["sack"]) == MAX_SACK:
            fields |= {"slot": kinds.NO_SLOT, "off": 0}
    return fields


def arbitrary(kind: int) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a record of this kind."""
    cls = CLASSES[kind]
    strategy = st.fixed_dictionaries({name: _field(cls, name) for name in fields_of(cls)})
    return strategy.map(lambda fields: _possible(kind, fields))


def pack(kind: int, fields: dict[str, Any]) -> bytes:
    """The record of these fields, however its class makes one."""
    cls: Any = CLASSES[kind]
    wanted = list(inspect.signature(cls.pack).parameters)
    if wanted == ["self"]:
        return bytes(cls(**fields).pack())
    given = {"kind": kind, **fields}
    if "run" in wanted:
        given["run"] = Run(*(fields[name] for name in ("slot", "off", "length", "stride", "piece_size")))
    return bytes(cls.pack(**{name: given[name] for name in wanted}))
