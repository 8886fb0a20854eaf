"""Binding a unix socket where the file of an earlier one may lie.

A killed program leaves its socket files. Such an abandoned file is replaced. A file on which a socket is
bound is not replaced, nor is a file that is not a socket: then ``bind`` fails with EADDRINUSE.

To find out, this module connects a datagram socket to the path. That sends nothing, and a listener does not
notice it. The error is ECONNREFUSED exactly when no socket of any kind is bound there. Two daemons that start
at once take turns by a lock on the directory, which leaves no file and ends with its holder. Other programs
do not know the lock, so the file is compared before it is removed.
"""

import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

if sys.platform != "win32":
    import fcntl

LOCK_WAIT: Final = 2.0
"""Seconds for which another program may hold the lock on the directory."""
LOCK_RETRY: Final = 0.01

Identity = tuple[int, int]
"""Device and inode: which file it is, whatever its name."""


def bind(sock: socket.socket, path: str, mode: int) -> None:
    """Bind with these permission bits. Raises OSError.

    The file of an abandoned socket is replaced. EADDRINUSE if the path is anything else.
    """
    try:
        _bind(sock, path, mode)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not is_abandoned(path):
            raise
        with _locked(os.path.dirname(path) or "."):
            _remove_abandoned(path)
            _bind(sock, path, mode)


def is_abandoned(path: str) -> bool:
    """Whether the path is the file of a socket on which no program is bound any more."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except OSError as error:
        # EPROTOTYPE: a listener of another kind; EPERM: a datagram socket that is connected; EACCES: unknown.
        return error.errno == errno.ECONNREFUSED
    return False


def identity(path: str) -> Identity | None:
    """Device and inode of the file there, None if there is no file."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove(path: str, which: Identity | None) -> bool:
    """Remove a file unless another one has taken its place. Returns whether it was removed."""
    if which is None or identity(path) != which:
        return False
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _bind(sock: socket.socket, path: str, mode: int) -> None:
    mask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
    finally:
        os.umask(mask)


def _remove_abandoned(path: str) -> None:
    before = identity(path)
    if is_abandoned(path):
        remove(path, before)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold the lock of a directory. Go on without it where the file system has no locks."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + LOCK_WAIT
        while not _lock(fd):
            if time.monotonic() >= until:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            time.sleep(LOCK_RETRY)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
