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
        self.pid_fd = -1
        """The pid file, if it is a regular one: a successor may have no right to open it."""

    def keep(self, path: str) -> None:
        """Remove the socket file at this path at the end. An empty path stands for no file."""
        if path:
            self._files.append(socket_file.OwnFile(path))

    def write_pid(self, path: str, given: int = -1) -> None:
        """Write the pid to a file, unless the path is empty. Raises OSError.

        given: the descriptor of the file, if a predecessor has written its own pid into it.
        """
        if not path:
            return
        fd = given if given >= 0 else output_file.open_file(path, PID_FILE_MODE, empty=True)
        try:
            found = os.fstat(fd)
            regular = stat.S_ISREG(found.st_mode) and output_file.descriptor(path) is None
            if regular and found.st_uid == os.geteuid():
                # An earlier run may have left the file with another mode.
                output_file.set_mode(fd, PID_FILE_MODE)
            # No newline, because podman does not strip the text.
            content = str(os.getpid()).encode()
            if given >= 0:
                os.ftruncate(fd, 0)
                os.pwrite(fd, content, 0)
            else:
                os.write(fd, content)
        except OSError:
            os.close(fd)
            raise
        if regular:
            self._files.append(socket_file.OwnFile(path, content=content))
            self.pid_fd = fd
        else:
            os.close(fd)

    def leave_all(self) -> None:
        """A successor has them: let them be."""
        for file in self._files:
            file.forget()
        self._files.clear()
        self._close_pid()

    def _close_pid(self) -> None:
        if self.pid_fd >= 0:
            os.close(self.pid_fd)
            self.pid_fd = -1

    def remove_all(self) -> None:
        """Remove them."""
        for file in self._files:
            if not file.remove() and os.path.lexists(file.path):
                self._log.warning("file not removed: another program's, or not permitted", path=file.path)
        self._files.clear()
        self._close_pid()
