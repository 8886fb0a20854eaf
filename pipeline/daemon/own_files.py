"""The files that the daemon makes for its own life, and removes at its end: sockets and the pid file."""

import os
import stat
from typing import Final

import structlog

from pipeline.system import output_file, socket_file

PID_FILE_MODE: Final = 0o644


class OwnFiles:
    """These files. A file that another program has replaced stays."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._files: list[socket_file.OwnFile] = []

    def keep(self, path: str) -> None:
        """Remove the socket file at this path at the end. An empty path stands for no file."""
        if path:
            self._files.append(socket_file.OwnFile(path))

    def write_pid(self, path: str) -> None:
        """Write the pid to a file, unless the path is empty. Raises OSError."""
        if not path:
            return
        fd = output_file.open_file(path, PID_FILE_MODE, empty=True)
        with open(fd, "wb", buffering=0) as file:
            found = os.fstat(fd)
            regular = stat.S_ISREG(found.st_mode) and output_file.descriptor(path) is None
            if regular and found.st_uid == os.geteuid():
                # An earlier run may have left the file with another mode.
                output_file.set_mode(fd, PID_FILE_MODE)
            # No newline, because podman does not strip the text.
            content = str(os.getpid()).encode()
            file.write(content)
            if regular:
                self._files.append(socket_file.OwnFile(path, content=content))

    def remove_all(self) -> None:
        """Remove them."""
        for file in self._files:
            if not file.remove() and os.path.lexists(file.path):
                self._log.warning("file not removed: another program's, or not permitted", path=file.path)
        self._files.clear()
