"""Reads a small file whole, without blocking and without filling the memory.

A FIFO blocks its reader until a writer opens it, /dev/zero never ends, and a user may name the wrong path. So
read() takes only regular files of bounded length. A caller may allow pipes too.
"""

import errno
import os
import stat
from typing import Final

MAX_BYTES: Final = 16 * 1024 * 1024
PIECE: Final = 1024 * 1024

_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileError(Exception):
    """The kind or length of the file is not allowed. The text says what is allowed."""


def read(path: str, *, pipes: bool = False) -> bytes:
    """All bytes of a file. Raises OSError, FileError.

    pipes: also read a terminal or a pipe, such as the shell's ``<(command)``. That waits for the writer.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if pipes else getattr(os, "O_NONBLOCK", 0)))
    with open(fd, "rb", buffering=0) as file:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if kind != stat.S_IFREG and not (pipes and kind in (stat.S_IFIFO, stat.S_IFCHR)):
            raise FileError(f"it is {_KINDS.get(kind, 'no file')} (allowed: a regular file)")
        data = bytearray()
        while piece := file.read(PIECE):
            data += piece
            if len(data) > MAX_BYTES:
                raise FileError(f"it is too long (allowed: {MAX_BYTES >> 20} MiB)")
    return bytes(data)
