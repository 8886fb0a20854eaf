"""What is wrong with values of a file, or of the same settings in another form: the place and the words."""

import difflib
from dataclasses import fields, is_dataclass
from typing import Final, NamedTuple, TypeAlias

from pydantic_core import ErrorDetails

from pipeline.config.keys import Map, dashed
from pipeline.config.scalars import Scalar, SecretError
from pipeline.go import flags

Path = tuple[str | int, ...]
Data: TypeAlias = "Scalar | list[Data] | dict[str, Data]"


class Document(NamedTuple):
    """A file as read: nested dicts and lists of Scalar, and the line of each path."""

    data: dict[str, "Data"]
    lines: dict[Path, int]


_EXPECTED: Final = {
    "tuple_type": "must be a list",
    "dict_type": "must be a map",
    "model_type": "must be a map",
    "dataclass_type": "must be a map",
    "missing": "is missing, and is needed",
}


def wording(error: ErrorDetails) -> tuple[Path, str]:
    """Where a wrong value stands, and what is wrong with it."""
    # A bad key of a map has the place (..., key, "[key]").
    path: Path = tuple(step for step in error["loc"] if step != "[key]")
    cause = error.get("ctx", {}).get("error")
    expected = str(cause) if cause is not None else _EXPECTED.get(error["type"], error["msg"])
    found = error["input"]
    shows = isinstance(found, str) and not isinstance(cause, SecretError)
    shown = f", not {flags.quote(found)}" if shows else ""
    return path, f"{expected}{shown}"


def path_text(path: Path) -> str:
    """``("stack", "dns", 0, "ip")`` as ``stack.dns[0].ip``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


_SECURITY: Final = (
    "egress-policy",
    "guest-api",
    "api-token-file",
    "guests",
    "ec2-metadata-access",
    "disable",
    "outbound-address",
    "outbound-interface",
)
"""Keys that restrict what guests and clients may do. The network must not start without one of them."""


class Unknown(NamedTuple):
    """An unknown key. hint: the nearest known one, or all. restricts: it is, or stands in, one of _SECURITY.

    line: where it stands in the file; 1 if there is none.
    """

    path: Path
    hint: str
    restricts: bool
    line: int

    @property
    def text(self) -> str:
        """What the reader of the file is told."""
        note = f"line {self.line}: unknown key {path_text(self.path)}{self.hint}"
        return f"{note} (a restriction would be missing)" if self.restricts else note


def unknown_keys(value: object, data: Data, path: Path, document: Document) -> list[Unknown]:
    """Each key of data that value has no field for."""
    if isinstance(value, tuple) and isinstance(data, list):
        pairs = enumerate(zip(value, data, strict=True))
        return [note for at, (item, its) in pairs for note in unknown_keys(item, its, (*path, at), document)]
    names = fields_of(value)
    if not names or not isinstance(data, dict):
        return []
    notes, deeper = [], []
    for key, inner in data.items():
        where = (*path, str(key))
        if key in names:
            deeper += unknown_keys(getattr(value, names[key]), inner, where, document)
            continue
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(names))}"
        restricts = where[0] in _SECURITY or bool(near and near[0] in _SECURITY)
        notes.append(Unknown(where, hint, restricts, document.lines.get(where, 1)))
    return notes + deeper


def fields_of(value: object) -> dict[str, str]:
    """The field of each key that a map may have; none for other values."""
    if not is_dataclass(value):
        return {}
    is_map = isinstance(value, Map)
    return {
        each.metadata.get("alias", dashed(each.name) if is_map else each.name): each.name
        for each in fields(value)
    }
