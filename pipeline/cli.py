"""The command ``gvtap-pipeline``: finds the sub-command, parses its flags, and loads the code that runs it.

``start [flags]`` runs the network. ``config check FILE`` checks a configuration file. ``config show [flags]``
prints the resulting configuration, ``config schema`` the JSON schema of the file. ``capture`` and ``extcap``
write frames of a running daemon. ``-version`` prints the version. Exit codes: 0 after an orderly end or help,
1 if the configuration is wrong or the start fails, 2 for a wrong command line.

The module of a sub-command is loaded when it runs. So help and version need none of the daemon's libraries.
"""

import difflib
import sys
from collections.abc import Sequence
from typing import Final

from pipeline import release
from pipeline.client import options as client_options
from pipeline.config import options
from pipeline.go import flags
from pipeline.system import standard_files

PROGRAM: Final = release.PROGRAM
OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2

_SUMMARY: Final = f"""Usage of {PROGRAM}:
  {PROGRAM} start [flags]         run the network; -help lists the flags
  {PROGRAM} config check FILE     say what is wrong with a configuration file
  {PROGRAM} config show [flags]   print what flags and file come to, as a file
  {PROGRAM} config schema         print the JSON schema of a configuration file
  {PROGRAM} capture [flags]       write what guests send and get, of a running daemon
  {PROGRAM} extcap [flags]        the same for Wireshark, which runs this command
  {PROGRAM} -version              print the version
"""
_COMMANDS: Final = ("start", "config", "capture", "extcap", "version", "help")
_CONFIG_COMMANDS: Final = ("check", "show", "schema")
_VERSION: Final = flags.Flag("version", "bool", "print the version and exit")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (by default sys.argv without the program's name). Returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    standard_files.open_closed()
    match words:
        case ["start", *rest]:
            return _start(rest)
        case ["config", *rest]:
            return _config(rest)
        case ["capture", *rest]:
            return _capture(rest)
        case ["extcap", *rest]:
            return _extcap(rest)
        case ["-version" | "--version" | "version"]:
            print(release.line(PROGRAM))
            return OK
        case ["-h" | "-help" | "--help" | "--h" | "help"]:
            sys.stdout.write(_SUMMARY)
            return OK
        case _:
            sys.stderr.write(f"{_unknown(words)}\n" if words else "")
            sys.stderr.write(_SUMMARY)
            return MISUSED


def parse(
    command: str, words: Sequence[str], table: Sequence[flags.Flag] = options.START
) -> flags.Parsed | int:
    """Parse the flags of a sub-command. Returns an exit code instead after help, version or misuse."""
    names = [flag.name for flag in table]
    try:
        parsed = flags.parse(table, words)
        # Wireshark decides what follows its flags.
        if command != "extcap":
            _check_arguments(parsed, names)
    except flags.HelpRequestError:
        sys.stdout.write(flags.usage(f"Usage of {PROGRAM} {command}:", table))
        return OK
    except flags.FlagError as error:
        sys.stderr.write(f"{error}{_hint(error, names)}\n'{PROGRAM} {command} -help' lists the flags\n")
        return MISUSED
    if parsed.true("version"):
        print(release.line(PROGRAM))
        return OK
    return parsed


def _capture(words: Sequence[str]) -> int:
    parsed = parse("capture", words, (*client_options.CAPTURE, _VERSION))
    if isinstance(parsed, int):
        return parsed
    from pipeline.client import capture  # noqa: PLC0415  only this command needs it

    return capture.run(parsed)


def _extcap(words: Sequence[str]) -> int:
    parsed = parse("extcap", words, (*client_options.EXTCAP, _VERSION))
    if isinstance(parsed, int):
        return parsed
    from pipeline.client import extcap  # noqa: PLC0415  only this command needs it

    return extcap.run(parsed)


def _start(words: Sequence[str]) -> int:
    parsed = parse("start", words)
    if isinstance(parsed, int):
        return parsed
    from pipeline.commands import start  # noqa: PLC0415  only this command needs the daemon

    return start.pipeline(parsed, words)


def _config(words: Sequence[str]) -> int:
    from pipeline.commands import config  # noqa: PLC0415  only this command needs the schema

    match words:
        case ["check", path]:
            return config.check(path)
        case ["schema"]:
            return config.schema()
        case ["show", *rest]:
            parsed = parse("config show", rest)
            return parsed if isinstance(parsed, int) else config.show(parsed, rest)
        case _:
            sys.stderr.write(f"{_unknown_config(words)}\n{_SUMMARY}")
            return MISUSED


def _check_arguments(parsed: flags.Parsed, names: Sequence[str]) -> None:
    """Refuse a word that is not a flag: most often its dash is missing."""
    if not parsed.arguments:
        return
    word = parsed.arguments[0]
    if word.partition("=")[0] in names:
        raise flags.FlagError(f"{flags.quote(word)} is not a flag, did you mean -{word}?")
    raise flags.FlagError(f"unexpected argument {flags.quote(word)}: a flag begins with a dash")


def _hint(error: flags.FlagError, names: Sequence[str]) -> str:
    if not isinstance(error, flags.UnknownFlagError):
        return ""
    return _nearest(error.name, names, "-")


def _unknown(words: Sequence[str]) -> str:
    """What is wrong with a line whose first word is not a sub-command."""
    word = words[0]
    if word.lstrip("-").partition("=")[0] in (flag.name for flag in options.START):
        return f"{flags.quote(word)} is a flag of start: {PROGRAM} start {' '.join(words)}"
    return f"unknown command: {' '.join(words)}{_nearest(word, _COMMANDS)}"


def _unknown_config(words: Sequence[str]) -> str:
    """What is wrong with the words after config."""
    match words:
        case []:
            return f"config needs a command: {', '.join(_CONFIG_COMMANDS)}"
        case ["check", *files]:
            return f"config check takes one file, not {len(files)}"
        case ["schema", *_]:
            return "config schema takes no arguments"
    return f"unknown command: {' '.join(['config', *words])}{_nearest(words[0], _CONFIG_COMMANDS, 'config ')}"


def _nearest(word: str, known: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {prefix}{near[0]}?" if near else ""


if __name__ == "__main__":
    sys.exit(main())
