"""The command ``gvtap-pipeline``: finds the sub-command, parses its flags, and loads the code that runs it.

sub_commands.py has the table of sub-commands. ``-version`` prints the version. Exit codes: 0 after an orderly
end or help, 1 if the configuration is wrong, the start fails, or a daemon cannot be asked, is not well or
refuses, 2 for a wrong command line.
"""

import difflib
import sys
from collections.abc import Sequence
from typing import Final

from pipeline import release
from pipeline.config import options
from pipeline.go import flags
from pipeline.sub_commands import COMMANDS, Command, find
from pipeline.system import standard_files

PROGRAM: Final = release.PROGRAM
OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2

_FIRST_WORDS: Final = (*dict.fromkeys(command.name.split()[0] for command in COMMANDS), "version", "help")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (by default sys.argv without the program's name). Returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    standard_files.open_closed()
    if (found := find(words)) is not None:
        return _run(*found)
    match words:
        case ["-version" | "--version" | "version"]:
            standard_files.write(f"{release.line(PROGRAM)}\n")
            return OK
        case ["-h" | "-help" | "--help" | "--h" | "help"]:
            standard_files.write(summary())
            return OK
        case [word, *_, "-h" | "-help" | "--help" | "--h"] if word in _FIRST_WORDS:
            standard_files.write(summary())
            return OK
        case _:
            sys.stderr.write(f"{_unknown(words)}\n" if words else "")
            sys.stderr.write(summary())
            return MISUSED


def summary() -> str:
    """The text of -help: a line for each sub-command."""
    rows = [(command.usage, command.help) for command in COMMANDS]
    rows.append(("-version", "print the version"))
    width = max(len(usage) for usage, _ in rows)
    lines = [f"  {PROGRAM} {usage:<{width}}  {text}" for usage, text in rows]
    end = f"'{PROGRAM} COMMAND -help' lists the flags of a command"
    return "\n".join([f"Usage of {PROGRAM}:", *lines, end]) + "\n"


def _run(command: Command, words: Sequence[str]) -> int:
    names = [flag.name for flag in command.flags]
    try:
        parsed = _parse(command, words)
        if not command.lenient and not command.arity:
            _check_arguments(parsed.arguments, names)
    except flags.HelpRequestError:
        standard_files.write(_help(command))
        return OK
    except flags.FlagError as error:
        hint = _nearest(error.name, names, "-") if isinstance(error, flags.UnknownFlagError) else ""
        sys.stderr.write(f"{error}{hint}\n'{PROGRAM} {command.name} -help' lists the flags\n")
        return MISUSED
    if "version" in names and parsed.true("version"):
        standard_files.write(f"{release.line(PROGRAM)}\n")
        return OK
    if command.arity and not command.takes(parsed.arguments):
        given = f"{len(parsed.arguments)} words" if parsed.arguments else "none"
        sys.stderr.write(f"{command.name} needs {command.argument}, not {given}\n")
        sys.stderr.write(f"Usage of {PROGRAM} {command.usage}\n")
        return MISUSED
    return command.load()(parsed, words)


def _parse(command: Command, words: Sequence[str]) -> flags.Parsed:
    """Parse the flags. If the command takes words, flags may follow them. Raises as flags.parse()."""
    parsed = flags.parse(command.flags, words)
    if not command.arity:
        return parsed
    left, arguments = list(words), []
    while parsed.arguments:
        arguments.append(left.pop(len(left) - len(parsed.arguments)))
        parsed = flags.parse(command.flags, left)
    return parsed._replace(arguments=tuple(arguments))


def _help(command: Command) -> str:
    argument = f" {command.argument}" if command.argument else ""
    return flags.usage(f"Usage of {PROGRAM} {command.name}{argument}:", command.flags)


def _check_arguments(words: Sequence[str], names: Sequence[str]) -> None:
    """Raise FlagError for a word that is not a flag. Most often its dash is missing."""
    if not words:
        return
    word = words[0]
    if word.partition("=")[0] in names:
        raise flags.FlagError(f"{flags.quote(word)} is not a flag, did you mean -{word}?")
    raise flags.FlagError(f"unexpected argument {flags.quote(word)}: a flag begins with a dash")


def _unknown(words: Sequence[str]) -> str:
    """What is wrong with a line that does not begin with a sub-command."""
    word = words[0]
    known = tuple(command.name for command in COMMANDS)
    if word in _FIRST_WORDS:
        return f"unknown command: {' '.join(words)}{_nearest(' '.join(words[:2]), known)}"
    if word.lstrip("-").partition("=")[0] in (flag.name for flag in options.START):
        return f"{flags.quote(word)} is a flag of start: {PROGRAM} start {' '.join(words)}"
    return f"unknown command: {' '.join(words)}{_nearest(word, _FIRST_WORDS)}"


def _nearest(word: str, known: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {prefix}{near[0]}?" if near else ""


if __name__ == "__main__":
    sys.exit(main())
