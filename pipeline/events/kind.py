"""One kind of event: a stable name, and the fields that each event of this kind has.

A line of the log names its kind under ``kind``. ``event`` has the text for people. A subscriber of
``/events`` gets only the kinds that are ``published``: those about the network. The others are about the
program.
"""

from typing import Final, NamedTuple

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40
CRITICAL: Final = 50
LEVEL_NAMES: Final = {DEBUG: "debug", INFO: "info", WARNING: "warning", ERROR: "error", CRITICAL: "critical"}
"""Levels have the numbers of the standard library's logging."""


class Kind(NamedTuple):
    """A row of the table of events."""

    name: str
    """In kebab-case. It never changes."""
    level: int
    text: str
    """The text of the log. "" if the text has parts that vary: then the caller names the kind."""
    meaning: str
    fields: dict[str, str]
    """The meaning of each field, by its name. Not every event has all of them."""
    published: bool


def logged(name: str, level: int, text: str, meaning: str, /, **fields: str) -> Kind:
    """A kind of event that only the log has."""
    return Kind(name, level, text, meaning, fields, published=False)


def published(name: str, level: int, text: str, meaning: str, /, **fields: str) -> Kind:
    """A kind of event that subscribers can have too."""
    return Kind(name, level, text, meaning, fields, published=True)
