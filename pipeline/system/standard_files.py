"""Standard input, output and error of a program that may be started without them (``>&-``).

The next file or socket that is opened gets the number of one that is closed. The log would then be written
into a guest's socket. So /dev/null takes these numbers first.
"""

import os
import sys
from typing import Final

NAMES: Final = ("standard input", "standard output", "standard error")


def open_closed() -> list[str]:
    """Open /dev/null for each that is closed. Returns their names. Raises OSError without /dev/null."""
    closed = []
    for number, name in enumerate(NAMES):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one, since those before it are open.
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
            closed.append(name)
    # These stay open as long as the program.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    return closed


def write(text: str) -> None:
    """Write to standard output. If its reader, such as head, has left, nothing is written."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()


def discard_output() -> None:
    """Forget what standard output holds. Python would try to write it at its end."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  it stays until the end
