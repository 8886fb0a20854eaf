"""Where each thread of this process is, for the log."""

import faulthandler
import os
from typing import IO


def traceback() -> str:
    """The stack of each thread. Goes through a file, since standard error may be a pipe that is full."""
    try:
        with _nameless_file() as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"no traceback of the supervisor: {error}\n"


def _nameless_file() -> IO[bytes]:
    """A file without a name: in memory if possible, since there may be no directory for temporary files."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("traceback"), "w+b")
    import tempfile  # noqa: PLC0415  Linux does not need it

    return tempfile.TemporaryFile()
