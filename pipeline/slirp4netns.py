"""The command ``gvtap-slirp4netns``: a replacement for slirp4netns, with its command line and API socket.

Exit codes: 0 after an orderly end, after help and version; 1 if the command line is wrong or the start fails.
docs/slirp4netns.md says what differs.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

from pipeline import release
from pipeline.config import slirp4netns
from pipeline.config.slirp4netns import OPTIONS, SHORT, OptionError, Options
from pipeline.system import process_name, standard_files
from pipeline.system.namespaces import NamespaceError

NAME: Final = "gvtap-slirp4netns"
STANDARD: Final = 3
"""Descriptors below this one are standard input, output and error."""
OK: Final = 0
FAILED: Final = 1
COMPATIBLE: Final = "1.3.1"
"""The version of slirp4netns whose options this program has. Callers parse it."""
SLIRP_CONFIG: Final = 5
"""What callers look for before they use options of a newer libslirp."""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (by default sys.argv without the program's name). Returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    standard_files.open_closed()
    try:
        given, arguments = slirp4netns.parse(words)
        if "-help" in given:
            standard_files.write(usage())
            return OK
        if "-version" in given:
            standard_files.write(version())
            return OK
        own = slirp4netns.checked(given, arguments)
    except OptionError as error:
        sys.stderr.write(f"{NAME}: {error}\n'{NAME} --help' lists the options\n")
        return FAILED
    process_name.set_name(NAME)
    try:
        own = keep_descriptors(own)
    except OptionError as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return FAILED
    from pipeline.commands.namespace_tap import open_for  # noqa: PLC0415  help and version need no tap

    try:
        tap = open_for(own)
    except NamespaceError as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return FAILED
    from pipeline.commands import slirp4netns as command  # noqa: PLC0415  nor the daemon

    return command.run(own, tap)


def keep_descriptors(own: Options) -> Options:
    """The options with copies of the caller's descriptors. Raises OptionError if one is not open.

    From now on no file of this program can have one of their numbers. Both may be the same.
    """
    copies = []
    for fd, name in ((own.exit_fd, "--exit-fd"), (own.ready_fd, "--ready-fd")):
        try:
            copies.append(os.dup(fd) if fd >= 0 else -1)
        except OSError as error:
            raise OptionError(f"{name}={fd}: {os.strerror(error.errno or 0).lower()}") from None
    # A copy that stays open would hide from the caller's other end that this program has closed its own.
    for fd in {own.exit_fd, own.ready_fd}:
        if fd >= STANDARD:
            os.close(fd)
    return own._replace(exit_fd=copies[0], ready_fd=copies[1])


def usage() -> str:
    """The text of --help."""
    short = {name: letter for letter, name in SHORT.items()}
    lines = [f"Usage: {NAME} [OPTION]... PID|PATH [TAPNAME]"]
    for flag in OPTIONS:
        letter = f"-{short[flag.name]}, " if flag.name in short else "    "
        value = "" if flag.kind == "bool" else f"={flag.name.rpartition('-')[2].upper()}"
        default = f" (default {flag.value_if_absent})" if flag.default else ""
        lines.append(f"{letter}-{flag.name}{value}  {flag.help}{default}")
    return "\n".join(lines) + "\n"


def version() -> str:
    """The lines of --version, in slirp4netns' form."""
    return (
        f"slirp4netns version {COMPATIBLE}\n"
        f"commit: {release.line('gvtap-pipeline')}\n"
        "libslirp: none\n"
        f"SLIRP_CONFIG_VERSION_MAX: {SLIRP_CONFIG}\n"
        "libseccomp: none\n"
    )


if __name__ == "__main__":
    sys.exit(main())
