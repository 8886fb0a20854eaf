"""Opens files to write into: the log, the pid file, the state file and a capture.

Another user who can write to the directory could lead the daemon to a file of the daemon's own user. So
this module does not follow a symbolic link at the path itself. It refuses a file that has a second name, and
kinds of files that can only be a mistake, such as a disk. The permissions of a new file are exactly the mode,
whatever the umask. An existing file keeps its permissions.

Some paths name a descriptor of this process and are symbolic links: /dev/stdout, /dev/stderr, /dev/fd/N,
/proc/self/fd/N. They mean a copy of that descriptor, whatever it is. Nothing is opened, emptied or removed.
"""

import errno
import os
import re
import stat
from contextlib import suppress
from typing import Final

_DESCRIPTOR: Final = re.compile(r"/(?:dev/fd|proc/self/fd)/([0-9]{1,6})", re.ASCII)
_STANDARD: Final = {"/dev/stdout": 1, "/dev/stderr": 2}
_NO_MODES: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_STREAMS: Final = (stat.S_IFIFO, stat.S_IFCHR)
ALLOWED: Final = "allowed: a regular file, a FIFO, a character device, /dev/stdout, /dev/stderr, /dev/fd/N"


def descriptor(path: str) -> int | None:
    """The number of the descriptor that a path names, None if it names none."""
    found = _DESCRIPTOR.fullmatch(path)
    return int(found[1]) if found else _STANDARD.get(path)


def open_file(
    path: str, mode: int, *, empty: bool = False, append: bool = False, read_fifo: bool = False
) -> int:
    """A descriptor for writing. Raises OSError. Opening never blocks.

    mode: of a file that is made here. empty: an existing regular file is emptied. read_fifo: a FIFO is
    opened for reading too, so it needs no reader yet and may change its reader. Without it, a FIFO that has
    no reader is an error.
    """
    if (number := descriptor(path)) is not None:
        return os.dup(number)
    flags = os.O_APPEND if append else 0
    kind = _kind(path)
    if kind is None:
        with suppress(FileExistsError):  # another program made it meanwhile: it is judged like any other
            return create(path, mode, append=append)
        kind = _kind(path)
    way = os.O_RDWR if kind == stat.S_IFIFO and read_fifo else os.O_WRONLY
    fd = os.open(path, way | flags | _SAFE)
    try:
        # Judge again: the path may lead to another file by now.
        if _judge(os.fstat(fd), path) == stat.S_IFREG and empty:
            os.ftruncate(fd, 0)
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def reopen(path: str, fd: int, mode: int) -> None:
    """Open a file again that grows: another program has moved it away. fd: its descriptor, which stays.

    A path that names a descriptor is left alone. Raises OSError; the old file stays then.
    """
    if descriptor(path) is not None:
        return
    new = open_file(path, mode, append=True, read_fifo=True)
    # The number stays, so lines that wait go to the new file.
    os.dup2(new, fd, inheritable=False)
    os.close(new)


def create(path: str, mode: int, *, append: bool = False) -> int:
    """A descriptor of a new file with exactly this mode. Raises OSError, FileExistsError among them."""
    made = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (os.O_APPEND if append else 0) | _SAFE
    # No other user may open the file before it has its mode.
    fd = os.open(path, made, mode & 0o600)
    try:
        set_mode(fd, mode)
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def set_mode(fd: int, mode: int) -> None:
    """Give an open file this mode. A file system without modes, such as FAT, keeps its own."""
    if stat.S_IMODE(os.fstat(fd).st_mode) == mode:
        return
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def replace(path: str, data: bytes, mode: int) -> None:
    """Replace a file as a whole by a new one, which is made next to it. After an OSError the old one stays.

    An earlier call may have left half of a new file, which is removed. Anything else at that path stays and
    is an error.
    """
    temporary = new_path(path)
    with suppress(FileNotFoundError):
        if stat.S_ISREG(os.lstat(temporary).st_mode):
            os.unlink(temporary)
    fd = create(temporary, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        # Half a file on a full disk is of no use, and takes room.
        with suppress(OSError):
            os.unlink(temporary)
        raise


def check_replace(path: str) -> None:
    """Raise OSError if replace() cannot make the new file of this path."""
    temporary = new_path(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    try:
        os.close(create(temporary, 0o600))
    except FileExistsError:
        _kind(temporary)
        return
    os.unlink(temporary)


def new_path(path: str) -> str:
    """The path at which replace() makes the new file."""
    return f"{path}.new"


# getattr: Windows, where only configurations are looked at, has none of these.
_SAFE: Final = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


def _kind(path: str) -> int | None:
    """The kind of file at the path, None if there is none. Raises OSError for one that is not allowed."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return _judge(found, path)


def _judge(found: os.stat_result, path: str) -> int:
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFLNK:
        raise OSError(errno.ELOOP, f"it is a symbolic link, which is not followed ({ALLOWED})", path)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if kind != stat.S_IFREG and kind not in _STREAMS:
        raise OSError(errno.EINVAL, f"it is a file of the wrong kind ({ALLOWED})", path)
    if kind == stat.S_IFREG and found.st_nlink > 1:
        raise OSError(errno.EMLINK, "the file has a second name (a hard link)", path)
    return kind
