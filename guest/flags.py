"""Command lines as Go's flag package reads them, for the guest's own program.

One dash or two, ``-name value`` or ``-name=value``; a boolean takes a value only behind
``=``; parsing ends at the first word that is no flag or behind ``--``. Words left over
are ignored, as gvforwarder ignores them. Does not print anything and does not exit: a
bad command line raises :class:`FlagError`, a wish for help raises :class:`HelpWanted`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class FlagError(ValueError):
    """The command line is wrong; the text says where, in Go's words."""


class HelpWanted(Exception):  # noqa: N818 - no error: the caller prints the usage and succeeds
    """-h or -help was given."""


class Flag(NamedTuple):
    """One flag: its default's type (bool, int or str) says what values it takes."""

    name: str
    default: bool | int | str
    help: str


def parse(flags: Sequence[Flag], words: Sequence[str]) -> dict[str, bool | int | str]:
    """Values by flag name, defaults filled in. Raises FlagError or HelpWanted."""
    table = {flag.name: flag for flag in flags}
    values = {flag.name: flag.default for flag in flags}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if len(word) < 2 or word[0] != "-" or word == "--":
            break
        body = word[2:] if word.startswith("--") else word[1:]
        if not body or body[0] in "-=":
            raise FlagError(f"bad flag syntax: {word}")
        name, equals, text = body.partition("=")
        flag = table.get(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpWanted
            raise FlagError(f"flag provided but not defined: -{name}")
        if not equals:
            if isinstance(flag.default, bool):
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise FlagError(f"flag needs an argument: -{name}")
        values[name] = _value(flag, text)
    return values


def usage(program: str, flags: Sequence[Flag]) -> str:
    """The text behind -help: one paragraph a flag, sorted by name."""
    lines = [f"Usage of {program}:"]
    for flag in sorted(flags):
        kind = (
            "" if isinstance(flag.default, bool) else " int" if isinstance(flag.default, int) else " string"
        )
        shown = (
            f' (default "{flag.default}")' if isinstance(flag.default, str) else f" (default {flag.default})"
        )
        lines += [f"  -{flag.name}{kind}", f"    \t{flag.help}{shown if flag.default else ''}"]
    return "\n".join(lines) + "\n"


def _value(flag: Flag, text: str) -> bool | int | str:
    if isinstance(flag.default, bool):
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise FlagError(f'invalid boolean value "{text}" for -{flag.name}: parse error')
    if isinstance(flag.default, int):
        try:
            return int(text, 0)
        except ValueError:
            raise FlagError(f'invalid value "{text}" for flag -{flag.name}: parse error') from None
    return text
