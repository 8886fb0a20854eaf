"""The command ``gvtap-gvproxy``: a replacement for gvproxy, for programs that start gvproxy.

It has exactly gvproxy's flags and texts, and no sub-commands. A wrong command line has exit code 2. When the
guest of a qemu, bess, vfkit or stdio link leaves, the daemon ends with 0. When the daemon fails, it ends with
1. If the program is called by another name, the process gets that name too, since podman looks for a process
named gvproxy.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

from pipeline import release
from pipeline.config import options
from pipeline.go import flags
from pipeline.system import process_name, standard_files

NAME: Final = "gvproxy"
OK: Final = 0
MISUSED: Final = 2


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (by default sys.argv without the program's name). Returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    standard_files.open_closed()
    parsed = _parse(words)
    if isinstance(parsed, int):
        return parsed
    name = os.path.basename(sys.argv[0])
    # With `python -m`, argv[0] is the path of this file.
    process_name.set_name("gvtap-gvproxy" if name.endswith(".py") else name)
    from pipeline.commands import start  # noqa: PLC0415  help and version do not need the daemon

    return start.gvproxy(parsed.with_defaults(options.OWN), words)


def _parse(words: Sequence[str]) -> flags.Parsed | int:
    """Parse the flags as gvproxy does. Returns an exit code instead after help, version or misuse."""
    usage = flags.usage(f"Usage of {sys.argv[0]}:", options.GVPROXY)
    try:
        parsed = flags.parse(options.GVPROXY, words)
    except flags.HelpRequestError:
        sys.stderr.write(usage)
        return OK
    except flags.FlagError as error:
        sys.stderr.write(f"{error}\n{usage}")
        return MISUSED
    if parsed.true("version"):
        # Programs compare this line: it has the original's form.
        print(f"{NAME} version {release.version()}")
        return OK
    return parsed


if __name__ == "__main__":
    sys.exit(main())
