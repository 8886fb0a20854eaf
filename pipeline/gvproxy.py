"""The command ``gvtap-gvproxy``: a replacement for gvproxy, for programs that start gvproxy.

It has exactly gvproxy's flags and texts, and no sub-commands. A wrong command line has exit code 2. When the
guest of a qemu, bess, vfkit or stdio link leaves, the daemon ends with 0. When the daemon fails, it ends with
1. If the program is called by another name, the process gets that name too, since podman looks for a process
named gvproxy.
"""

import os
import sys
from collections.abc import Sequence

from pipeline import cli
from pipeline.config import options
from pipeline.daemon import supervisor
from pipeline.system import process_name


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (by default sys.argv without the program's name). Returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    program = supervisor.GVPROXY
    version = f"{program.name} version {cli.version()}"
    parsed = cli.parse(f"Usage of {sys.argv[0]}:", options.GVPROXY, words, version)
    if isinstance(parsed, int):
        return parsed
    name = os.path.basename(sys.argv[0])
    # With `python -m`, argv[0] is the path of this file.
    process_name.set_name("gvtap-gvproxy" if name.endswith(".py") else name)
    return cli.start(parsed.with_defaults(options.OWN), words, program)


if __name__ == "__main__":
    sys.exit(main())
