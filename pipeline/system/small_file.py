"""Reads a small file whole, without blocking and without filling the memory.

A FIFO blocks its reader until a writer opens it, /dev/zero never ends, and a user may name the wrong path. So
read() takes only regular files of limited length. A caller may allow pipes too.
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


def read(path: str, max_bytes: int = 0, *, pipes: bool = False) -> bytes:
    """All bytes of a file. Raises OSError, FileError.

    max_bytes: of the file, MAX_BYTES by default. pipes: also read a terminal or a pipe, such as the shell's
    ``<(command)``. That waits for the writer.
    """
    max_bytes = max_bytes or MAX_BYTES
    if "\0" in path:
        raise FileError("its path has a NUL byte")
    # Check before opening: opening alone has an effect on a tape or a watchdog.
    _check_kind(os.stat(path).st_mode, pipes)
    waiting = 0 if pipes else getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0) | waiting)
    with open(fd, "rb", buffering=0) as file:
        _check_kind(os.fstat(fd).st_mode, pipes)
        data = bytearray()
        while piece := file.read(min(PIECE, max_bytes + 1)):
            data += piece
            if len(data) > max_bytes:
                raise FileError(f"it is too long (allowed: {_size(max_bytes)})")
    return bytes(data)


def _check_kind(mode: int, pipes: bool) -> None:
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if kind != stat.S_IFREG and not (pipes and kind in (stat.S_IFIFO, stat.S_IFCHR)):
        raise FileError(f"it is {_KINDS.get(kind, 'of an unknown kind')} (allowed: a regular file)")


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >> 20 else f"{count >> 10} KiB"
