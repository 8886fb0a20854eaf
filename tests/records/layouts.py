"""Arbitrary fields for every kind of record, and the record that they make."""

import inspect
from typing import Any, Final

from hypothesis import strategies as st

from pipeline.records import kinds
from pipeline.records.run import Run
from pipeline.records.services import TOLD_TEXT, Told
from pipeline.records.streams import DECIDED_TEXT
from pipeline.records.tcp import MAX_SACK, MAX_SACK_WITH_DATA
from tests.support.layouts import CLASSES, fields_of

U8: Final = 0xFF
U16: Final = 0xFFFF
U32: Final = 0xFFFFFFFF
U128: Final = (1 << 128) - 1

_BYTES = ("flags", "header_len", "hops_left", "type", "code", "protocol")
_ADDRESSES = ("guest_addr", "remote_addr", "offender")
_WORDS = (
    "link",
    "guest",
    "stride",
    "piece_size",
    "window",
    "mss",
    "guest_port",
    "identifier",
    "sequence",
    "reason",
)
_BOOLEANS = (
    "vnet", "borrowed", "has_timestamps", "has_other_options", "sack_permitted", "after_steered", "both",
    "final", "dont_fragment", "shared", "is_mac", "crowded", "insists", "on", "refused", "allowed", "is_name",
    "first", "last",
)  # fmt: skip


def _extremes(cls: type, name: str) -> tuple[Any, Any]:
    """The least and the largest value of a field."""
    if name in _BOOLEANS:
        return False, True
    if name == "key":
        return bytes(36), b"\xff" * 36
    if name == "client":
        return bytes(18), b"\xff" * 18
    if name == "text":
        return "", "\xff" * (TOLD_TEXT if cls is Told else DECIDED_TEXT)
    if name == "mac":
        return bytes(6), b"\xff" * 6
    if name == "window_scale":
        return -1, 14
    if name == "sack":
        return (), ((U32, U32),) * MAX_SACK
    if (cls.__name__, name) == ("Window", "window"):
        return 0, U32
    if name in _ADDRESSES:
        return 0, U128
    return 0, U8 if name in _BYTES else U16 if name in _WORDS else U32


def _field(cls: type, name: str) -> st.SearchStrategy[Any]:
    least, largest = _extremes(cls, name)
    if isinstance(least, bool):
        return st.booleans()
    if isinstance(least, bytes):
        return st.binary(min_size=len(least), max_size=len(least))
    if isinstance(least, str):
        return st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=len(largest))
    if isinstance(least, tuple):
        number = st.integers(0, U32)
        return st.lists(st.tuples(number, number), max_size=len(largest)).map(tuple)
    return st.integers(least, largest)


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


def extremes(kind: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of this kind, each with its least value, and each with its largest."""
    cls = CLASSES[kind]
    least, largest = ({name: _extremes(cls, name)[i] for name in fields_of(cls)} for i in (0, 1))
    return _possible(kind, least), _possible(kind, largest)


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
