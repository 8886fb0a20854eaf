"""Binding a unix socket where the file of an earlier one may lie.

A killed program leaves its socket files. Such an abandoned file is replaced. A file on which a socket is
bound is not replaced, nor is a file that is not a socket: then ``bind`` fails with EADDRINUSE.

Whether somebody is bound is asked by connecting a datagram socket to the path. That sends nothing, and a
listener does not notice it. The answer is ECONNREFUSED exactly when no socket of any kind is bound there.
Of two programs of ours that start at once, one replaces the file and the other is refused. Each has to hold
an abstract name (unix(7)) of that path meanwhile. It is no file, it ends with its holder, and nobody waits
for it, since event loops call this. Against other programs, and where a system has no such names, the file is
compared before it is removed.
"""

import errno
import hashlib
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
        with _turn(path):
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
    before = _version(path)
    # Nothing between the last look and the removal: another program's new file must not come in there.
    if is_abandoned(path) and before is not None and _version(path) == before:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _version(path: str) -> tuple[int, int, int] | None:
    """Which file lies there, and since when: a new file may get the inode of one that was removed."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


@contextmanager
def _turn(path: str) -> Iterator[None]:
    """Be the only one that replaces this file. EADDRINUSE when another program of ours does, to serve it."""
    if sys.platform != "linux":
        yield
        return
    directory, name = os.path.split(path)
    found = os.stat(directory or ".")
    key = hashlib.sha256(os.fsencode(f"{found.st_dev}:{found.st_ino}:{name}")).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        holder.bind(f"\0gvtap-pipeline-{key}")
        yield
