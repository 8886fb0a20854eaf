"""The command ``gvtap-gvproxy``: gvproxy's command line and life, for scripts and programs made for it.

No sub-command, exactly its flags, its texts and exit codes for a wrong line (2), and the end of the daemon
when the guest of a qemu, bess, vfkit or stdio link leaves (0). Failures end with 1. Where it is called
by another name (a link named gvproxy, as podman looks for), that is the name of the process too.
"""

import os
import sys
from collections.abc import Sequence

from pipeline import cli
from pipeline.config import options
from pipeline.daemon import supervisor
from pipeline.system import process_name


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line (sys.argv without the program's name by default); the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    program = supervisor.GVPROXY
    version = f"{program.name} version {cli.version()}"
    parsed = cli.parse(f"Usage of {sys.argv[0]}:", options.GVPROXY, words, version)
    if isinstance(parsed, int):
        return parsed
    name = os.path.basename(sys.argv[0])
    # `python -m` calls it by the file's path.
    process_name.set_name("gvtap-gvproxy" if name.endswith(".py") else name)
    return cli.start(parsed.with_defaults(options.OWN), words, program)


if __name__ == "__main__":
    sys.exit(main())
