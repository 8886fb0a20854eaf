"""What all control messages have in common: fields with types, to and from a map (see message_table.py)."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import ClassVar, Final, Self, get_args, get_origin, get_type_hints


class MessageError(ValueError):
    """A map is not a valid message of the expected class."""


class Message:
    """Base of all messages. A map is this message if it has ``NAME`` under ``KEY``."""

    __slots__ = ()
    KEY: ClassVar[str] = ""
    NAME: ClassVar[str] = ""

    def encode(self) -> dict[str, object]:
        """The map."""
        found: dict[str, object] = {self.KEY: self.NAME} if self.KEY else {}
        for name, (_, needed) in _kinds(type(self)).items():
            value = getattr(self, name)
            if needed or value is not None:
                found[name] = value
        return found

    @classmethod
    def decode(cls, found: Mapping[str, object]) -> Self:
        """The message in a map. Raises MessageError for a missing field, or one of another type."""
        values = {}
        for name, (kinds, needed) in _kinds(cls).items():
            value = found.get(name)
            if value is None and not needed:
                continue
            if not isinstance(value, kinds):
                raise MessageError(f"{cls.__name__}: {name} is {value!r}")
            values[name] = value
        return cls(**values)

    @classmethod
    def with_fields_of(cls, other: "Message") -> Self:
        """A message of this class with the values of another one, which has all of its fields."""
        return cls(**{name: getattr(other, name) for name in _kinds(cls)})


class Request(Message):
    """A message to a worker, which answers it."""

    __slots__ = ()
    KEY = "op"


class Event(Message):
    """A message from a worker to the supervisor. It is not answered."""

    __slots__ = ()
    KEY = "event"


class Answer(Message):
    """A worker's answer to a request."""

    __slots__ = ()


_Kinds = dict[str, tuple[tuple[type, ...], bool]]
_found_kinds: Final[dict[type[Message], _Kinds]] = {}


def _kinds(cls: type[Message]) -> _Kinds:
    """For each field of a class: its possible types in a map, and whether it is required."""
    kinds = _found_kinds.get(cls)
    if kinds is None:
        hints = get_type_hints(cls)
        kinds = _found_kinds[cls] = {
            row.name: (_types(hints[row.name]), row.default is MISSING)
            for row in fields(cls)  # type: ignore[arg-type]  # every message is a dataclass
        }
    return kinds


def _types(hint: type) -> tuple[type, ...]:
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts)
