"""The command ``gvtap-gvproxy``: gvproxy's command line and life, for scripts and programs made for it.

It has no sub-commands, exactly gvproxy's flags and texts, and exit code 2 for a wrong line. The daemon ends
with 0 when the guest of a qemu, bess, vfkit or stdio link leaves, and with 1 when it fails. If the program is
called by another name (podman looks for a link named gvproxy), the process has that name too.
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
