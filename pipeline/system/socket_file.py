"""Binds a unix socket at a path where a killed program may have left its socket file.

``bind`` replaces such an abandoned file. It does not replace a file on which a socket is bound, nor a file
that is not a socket: then it fails with EADDRINUSE.

To find out whether a socket is bound, this module connects a datagram socket to the path. This sends nothing,
and a listener does not notice it. The result is ECONNREFUSED exactly when no socket of any kind is bound.

Two instances of this program may start at once and find the same abandoned file. While an instance replaces
it, it holds an abstract socket name (unix(7)) made from the path. The other instance cannot bind that name
and fails with EADDRINUSE at once; it does not wait, since event loops call this. The kernel frees the name
when its holder ends. Other programs do not know the name, and only Linux has such names. So the file is also
compared right before it is removed.

When a program ends, it removes the files that it made. It does not remove the file of a successor at the
same path. Device and inode identify a file. The system may use an inode number again as soon as nobody holds
its file, so an OwnFile holds it with a descriptor. A successor may also write into the file that it finds, as
with a pid file. So an OwnFile may know what must be in the file.
"""

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline.blake2 import blake2b
from pipeline.system import small_file

Identity = tuple[int, int]
"""Device and inode: they identify a file, whatever its name."""


class OwnFile:
    """A file that this program has made: a socket, or the pid file. remove() removes no other one."""

    def __init__(self, path: str, *, bound: bool = False, content: bytes = b"") -> None:
        """Take the file that lies at path now. Call this right after making it.

        bound: a socket of this process is bound there, and stays open until remove(). It holds the file, so
        no descriptor is needed. content: remove() leaves a file with other content. b"": any content will do.
        """
        self.path = path
        self._content = content
        self._pin = -1
        self._identity: Identity | None = None
        pin = 0 if bound else getattr(os, "O_PATH", 0)
        try:
            if pin:
                self._pin = os.open(path, pin | os.O_NOFOLLOW | os.O_CLOEXEC)
                found = os.fstat(self._pin)
                self._identity = found.st_dev, found.st_ino
        except OSError:
            # The file is gone already, or no descriptor is left. Then only the numbers are compared.
            pin = 0
        if not pin:
            self._identity = identity(path)

    def remove(self) -> bool:
        """Remove the file unless it has become another program's. Returns whether it was removed."""
        removed = self._has_content() and remove(self.path, self._identity)
        self.forget()
        return removed

    def forget(self) -> None:
        """Leave the file where it is."""
        self._identity = None
        if self._pin >= 0:
            os.close(self._pin)
            self._pin = -1

    def _has_content(self) -> bool:
        if not self._content:
            return True
        try:
            return small_file.read(self.path, len(self._content)) == self._content
        except (OSError, small_file.FileError):
            return False


def fault(path: str, *, relative: bool = False) -> str:
    """What is wrong with a path that a client of the API or the user names, "" if nothing is.

    A relative path means a file in the daemon's directory, which a client does not know. relative: it is
    allowed. A NUL byte ends the path for the system, or begins an abstract name, which people write with
    an @.
    """
    if "\0" in path:
        return "the path has a NUL byte"
    if path.startswith("/"):
        return ""
    if not path:
        return "the path is missing"
    if path.startswith("@"):
        return "abstract names are not supported (allowed: an absolute path)"
    return "" if relative else "the path is not absolute (allowed: an absolute path)"


def bind(sock: socket.socket, path: str, mode: int) -> None:
    """Bind with the permission bits mode. Replaces the file of an abandoned socket.

    Raises OSError: EADDRINUSE if the path is anything else.
    """
    try:
        _bind(sock, path, mode)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not is_abandoned(path):
            raise
        with _lock(path):
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
        # EPROTOTYPE: a socket of another type is bound. EPERM: a datagram socket that has a peer is bound.
        # EACCES: unknown.
        return error.errno == errno.ECONNREFUSED
    return False


def identity(path: str) -> Identity | None:
    """Device and inode of the file at path; None if there is no file."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_other_file(path: str) -> bool:
    """Whether there is a file at path that is not a socket."""
    try:
        return not stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def remove(path: str, which: Identity | None) -> bool:
    """Remove the file at path if it is still ``which``. Returns whether it was removed.

    A file that the system does not let this process remove stays.
    """
    if which is None or identity(path) != which:
        return False
    try:
        os.unlink(path)
    except OSError:
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
    # Nothing may stand between the last check and unlink(): another program may create a new file meanwhile.
    if is_abandoned(path) and before is not None and _version(path) == before:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _version(path: str) -> tuple[int, int, int] | None:
    """Identity and change time of the file at path: a new file may get the inode of a removed one."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


@contextmanager
def _lock(path: str) -> Iterator[None]:
    """Hold the abstract name of the path. Raises OSError (EADDRINUSE) if another instance holds it."""
    if sys.platform != "linux":
        yield
        return
    directory, name = os.path.split(path)
    found = os.stat(directory or ".")
    key = blake2b(os.fsencode(f"{found.st_dev}:{found.st_ino}:{name}"), digest_size=32).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        holder.bind(f"\0gvtap-pipeline-{key}")
        yield
