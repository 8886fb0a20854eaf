"""Parses a command line as Go's flag package does, because gvproxy, which this program replaces, uses it.

A flag has one dash or two: ``-name value`` or ``-name=value``. A boolean takes a value only after ``=``.
Parsing ends at the first word that is not a flag, or after ``--``. Integers are Go literals: ``0x10``,
``0b1``, ``0o17``, ``017``, ``1_000``. A wrong line raises FlagError with the text of Go's error. A request
for help raises HelpRequestError. This module prints nothing and never exits.

The daemon's flags are in config/options.py, the agent's in guest/agent.py. This module is installed in guests
with the agent, so it imports only the standard library.
"""

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})

# Go: one underscore between digits, and one may follow the base's prefix.
_INTEGER: Final = re.compile(
    r"(?P<sign>[+-]?)(?:0[xX](?P<hex>(?:_?[0-9a-fA-F])+)|0[bB](?P<bin>(?:_?[01])+)"
    r"|0[oO](?P<oct>(?:_?[0-7])+)|0(?P<old>(?:_?[0-7])+)|(?P<dec>0|[1-9](?:_?[0-9])*))",
    re.ASCII,
)
_BASES: Final = {"hex": 16, "bin": 2, "oct": 8, "old": 8, "dec": 10}
_LONGEST_INTEGER: Final = 300
"""Characters. int() refuses thousands of digits with an error of another kind."""
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1

Value = bool | int | str
_EMPTY: Final[dict[str, Value]] = {"bool": False, "int": 0, "string": ""}


class FlagError(ValueError):
    """The command line is wrong. The text is Go's."""


class HelpRequestError(Exception):
    """-h or -help was given and is not a flag of the program."""


class Flag(NamedTuple):
    """One flag. A repeating flag collects all its values, as strings. Any other keeps the last one."""

    name: str
    kind: Literal["bool", "int", "string"]
    help: str
    default: Value | None = None
    repeats: bool = False

    @property
    def value_if_absent(self) -> Value:
        """The flag's value when the line does not name it."""
        if self.default is not None:
            return self.default
        return _EMPTY[self.kind]


class Parsed(NamedTuple):
    """A parsed command line.

    ``values``: the last value of each flag, or its default. ``lists``: all values of the repeating flags.
    ``given``: names of the flags that the line has. ``arguments``: the words after the flags.
    """

    values: dict[str, Value]
    lists: dict[str, tuple[str, ...]]
    given: frozenset[str]
    arguments: tuple[str, ...]

    def with_defaults(self, flags: Sequence[Flag]) -> "Parsed":
        """The same line with the defaults of further flags, which it does not have."""
        other = parse(flags, ())
        return self._replace(values=other.values | self.values, lists=other.lists | self.lists)

    def text(self, name: str) -> str:
        """The value of a string flag."""
        return str(self.values[name])

    def number(self, name: str) -> int:
        """The value of an int flag."""
        return int(self.values[name])

    def true(self, name: str) -> bool:
        """The value of a bool flag."""
        return bool(self.values[name])


def parse(flags: Sequence[Flag], words: Sequence[str]) -> Parsed:
    """Parse words (without the program's name). Raises FlagError or HelpRequestError."""
    table = {flag.name: flag for flag in flags}
    values = {flag.name: flag.value_if_absent for flag in flags if not flag.repeats}
    lists: dict[str, list[str]] = {flag.name: [] for flag in flags if flag.repeats}
    given: set[str] = set()
    at = 0
    while at < len(words):
        word = words[at]
        if len(word) < 2 or word[0] != "-":
            break
        at += 1
        if word == "--":
            break
        body = word[2:] if word.startswith("--") else word[1:]
        if not body or body[0] in "-=":
            raise FlagError(f"bad flag syntax: {word}")
        name, equals, text = body.partition("=")
        flag = table.get(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpRequestError
            raise FlagError(f"flag provided but not defined: -{name}")
        if not equals:
            if flag.kind == "bool":
                text = "true"
            elif at < len(words):
                text = words[at]
                at += 1
            else:
                raise FlagError(f"flag needs an argument: -{name}")
        given.add(name)
        value = _value(flag, text)
        if flag.repeats:
            lists[name].append(str(value))
        else:
            values[name] = value
    return Parsed(
        values, {name: tuple(items) for name, items in lists.items()}, frozenset(given), tuple(words[at:])
    )


def integer(text: str) -> int:
    """A Go integer literal of 64 bits. FlagError says `parse error` or `value out of range`."""
    found = _INTEGER.fullmatch(text)
    if found is None:
        raise FlagError("parse error")
    base = found.lastgroup or "dec"
    if len(text) > _LONGEST_INTEGER:
        raise FlagError("value out of range")
    value = int(found[base].replace("_", ""), _BASES[base])
    if found["sign"] == "-":
        value = -value
    if not _INT_MIN <= value <= _INT_MAX:
        raise FlagError("value out of range")
    return value


def usage(title: str, flags: Sequence[Flag]) -> str:
    """The text of -help: the title and a paragraph for each flag, sorted by name."""
    lines = [title]
    for flag in sorted(flags):
        kind = "" if flag.kind == "bool" else f" {flag.kind}"
        default = f" (default {_shown(flag.value_if_absent)})" if flag.value_if_absent else ""
        lines += [f"  -{flag.name}{kind}", f"    \t{flag.help}{default}"]
    return "\n".join(lines) + "\n"


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return quote(value)
    return str(value).lower()


def quote(text: str) -> str:
    """Text in double quotes with Go's escapes."""
    return '"' + "".join(_ESCAPES.get(char) or _escape(char) for char in text) + '"'


_ESCAPES: Final = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
    "\v": "\\v",
}  # fmt: skip


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:
        # Python's surrogate escape for a byte of the command line that is not UTF-8.
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _value(flag: Flag, text: str) -> Value:
    if flag.kind == "bool":
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise FlagError(f"invalid boolean value {quote(text)} for -{flag.name}: parse error")
    if flag.kind == "int":
        try:
            return integer(text)
        except FlagError as error:
            raise FlagError(f"invalid value {quote(text)} for flag -{flag.name}: {error}") from None
    return text
