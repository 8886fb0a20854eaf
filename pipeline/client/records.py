"""Objects of the daemon's answers. Their shape is not trusted: another version may have written them."""

from typing import Final

MAX_NUMBER: Final = 1 << 64
UNKNOWN: Final = "-"
"""Stands in tables for what the answer does not say."""


class Record:
    """One JSON object. A field that is missing or of another kind reads as empty."""

    def __init__(self, value: object) -> None:
        self._fields = value if isinstance(value, dict) else {}

    def text(self, name: str) -> str:
        """A text, or the text of a number; "" for anything else."""
        value = self._fields.get(name)
        return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""

    def number(self, name: str) -> float:
        """A number below MAX_NUMBER, 0 for anything else."""
        value = self._fields.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return 0
        # Not a number is not below anything.
        return value if abs(value) < MAX_NUMBER else 0

    def true(self, name: str) -> bool:
        """Whether the field is true."""
        return self._fields.get(name) is True

    def record(self, name: str) -> "Record":
        """An object."""
        return Record(self._fields.get(name))

    def records(self, name: str) -> list["Record"]:
        """A list of objects."""
        return records(self._fields.get(name))

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self._fields.get(name)
        return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []

    def whole_numbers(self, name: str) -> list[int]:
        """A list of whole numbers."""
        value = self._fields.get(name)
        found = value if isinstance(value, list) else []
        return [each for each in found if isinstance(each, int) and not isinstance(each, bool)]

    def numbers(self) -> dict[str, int]:
        """All fields that are whole numbers."""
        return {
            str(name): value
            for name, value in self._fields.items()
            if isinstance(value, int) and not isinstance(value, bool)
        }


def records(value: object) -> list[Record]:
    """The objects of a list."""
    return [Record(each) for each in value] if isinstance(value, list) else []
