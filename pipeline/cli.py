"""The command ``gvtap-pipeline``: parses the command line, builds a Config, runs the supervisor.

``start [flags]`` runs the network. ``config check FILE`` checks a configuration file. ``config show [flags]``
prints the resulting configuration. ``capture`` and ``extcap`` write frames of a running daemon.
``-version`` prints the version. Exit codes: 0 after an orderly end or
help, 1 if the configuration is wrong or the start fails, 2 for a wrong command line.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Final

import yaml

from pipeline import logs
from pipeline.client import capture, extcap
from pipeline.client import options as client_options
from pipeline.config import merge, options
from pipeline.config.file import ConfigError
from pipeline.config.shown import as_file
from pipeline.daemon import supervisor
from pipeline.go import flags
from pipeline.system import requirements

PROGRAM: Final = "gvtap-pipeline"
OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2

_SUMMARY: Final = f"""Usage of {PROGRAM}:
  {PROGRAM} start [flags]         run the network; -help lists the flags
  {PROGRAM} config check FILE     say what is wrong with a configuration file
  {PROGRAM} config show [flags]   print what flags and file come to, as a file
  {PROGRAM} capture [flags]       write what guests send and get, of a running daemon
  {PROGRAM} extcap [flags]        the same for Wireshark, which runs this command
  {PROGRAM} -version              print the version
"""


def version() -> str:
    """The version of the installed package, "unknown" if the package is not installed."""
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "unknown"


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (by default sys.argv without the program's name). Returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    match words:
        case ["start", *rest]:
            return _start(rest)
        case ["config", "check", path]:
            return _check(path)
        case ["config", "show", *rest]:
            return _show(rest)
        case ["capture", *rest]:
            return _client("capture", client_options.CAPTURE, rest, capture.run)
        case ["extcap", *rest]:
            return _client("extcap", client_options.EXTCAP, rest, extcap.run)
        case ["-version" | "--version" | "version"]:
            print(f"{PROGRAM} version {version()}")
            return OK
        case ["-h" | "-help" | "--help" | "--h" | "help"]:
            sys.stderr.write(_SUMMARY)
            return OK
        case _:
            sys.stderr.write(f"unknown command: {' '.join(words)}\n" if words else "")
            sys.stderr.write(_SUMMARY)
            return MISUSED


def parse(
    title: str, table: Sequence[flags.Flag], words: Sequence[str], version_line: str
) -> flags.Parsed | int:
    """Parse the flags of a command. Returns an exit code instead after help, version or misuse."""
    usage = flags.usage(title, table)
    try:
        parsed = flags.parse(table, words)
    except flags.HelpRequestError:
        sys.stderr.write(usage)
        return OK
    except flags.FlagError as error:
        sys.stderr.write(f"{error}\n{usage}")
        return MISUSED
    if parsed.true("version"):
        print(version_line)
        return OK
    return parsed


def start(parsed: flags.Parsed, words: Sequence[str], program: supervisor.Program) -> int:
    """Build the configuration and run the daemon as one of the two programs. Returns the exit code."""
    logs.setup()
    if shortage := requirements.shortage():
        logs.fatal(f"cannot run here: {shortage}", program.name)
        return FAILED
    opened: list[str] = []

    def try_log_file(path: str) -> None:
        logs.try_file(path)
        opened.append(path)

    try:
        config, warnings = merge.build(parsed, words, try_log_file=try_log_file, guests=program.guests)
        level = config.logging.log_level
        logs.setup(config.logging.log_file, level, debug=level == "debug")
    except (ConfigError, OSError) as error:
        logs.fatal(str(error), program.name)
        if opened:
            # Write the error to the log file too, for users who read only this file.
            logs.setup(opened[0])
            logs.logger("supervisor").critical(str(error))
            logs.flush()
        return FAILED
    log = logs.logger("supervisor")
    for warning in warnings:
        log.warning(warning, kind="configuration warning")
    log.info(f"{program.name} version {version()}")
    try:
        return supervisor.run(config, program, version())
    finally:
        logs.flush()


def _client(
    command: str, table: Sequence[flags.Flag], words: Sequence[str], run: Callable[[flags.Parsed], int]
) -> int:
    """A command that asks a running daemon. Returns the exit code."""
    version_flag = flags.Flag("version", "bool", "print the version and exit")
    parsed = parse(
        f"Usage of {PROGRAM} {command}:", (*table, version_flag), words, f"{PROGRAM} version {version()}"
    )
    return parsed if isinstance(parsed, int) else run(parsed)


def _start(words: Sequence[str]) -> int:
    parsed = _parse("start", words)
    return parsed if isinstance(parsed, int) else start(parsed, words, supervisor.OWN)


def _parse(command: str, words: Sequence[str]) -> flags.Parsed | int:
    return parse(f"Usage of {PROGRAM} {command}:", options.START, words, f"{PROGRAM} version {version()}")


def _check(path: str) -> int:
    """Write each problem as a line to standard error. An unknown key counts as a problem: a likely typo."""
    try:
        parsed = flags.parse(options.START, ["-config", path])
        _, warnings = merge.build(parsed)
    except ConfigError as error:
        sys.stderr.write(f"{path}: {error}\n")
        return FAILED
    for warning in warnings:
        sys.stderr.write(f"{warning}\n")
    if warnings:
        return FAILED
    print(f"{path}: ok")
    return OK


def _show(words: Sequence[str]) -> int:
    parsed = _parse("config show", words)
    if isinstance(parsed, int):
        return parsed
    try:
        config, warnings = merge.build(parsed, words)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return FAILED
    for warning in warnings:
        sys.stderr.write(f"{PROGRAM}: {warning}\n")
    yaml.safe_dump(as_file(config), sys.stdout, sort_keys=False, allow_unicode=True)
    return OK


if __name__ == "__main__":
    sys.exit(main())
