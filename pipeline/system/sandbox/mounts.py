"""Takes the file system away from this process with an empty mount namespace: where Landlock is missing.

The namespace has one empty file system that cannot be written. Without the right to mount, the process
first enters a user namespace of its own, in which it has that right.
"""

import ctypes
import errno
import os
from typing import Final

from pipeline.system.sandbox import libc

_CLONE_NEWNS: Final = 0x20000
_CLONE_NEWUSER: Final = 0x10000000
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8
_MS_REMOUNT: Final = 32
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2
_PLACE: Final = b"/proc"
"""A directory that every system has. The empty file system covers it for a moment."""


def leave_all() -> None:
    """Change to a mount namespace that has nothing. Raises OSError where the system does not allow that."""
    try:
        libc.call("unshare", _CLONE_NEWNS)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        libc.call("unshare", _CLONE_NEWNS | _CLONE_NEWUSER)
    # Otherwise the outer namespace would get this mount too.
    libc.call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    libc.call("mount", b"none", _PLACE, b"tmpfs", ctypes.c_ulong(flags), b"mode=0555")
    os.chdir(_PLACE)
    # The old root comes to lie on top of the new one, and is unmounted then (pivot_root(2)).
    libc.call("pivot_root", b".", b".")
    libc.call("umount2", b".", _MNT_DETACH)
    libc.call("mount", b"none", b"/", None, ctypes.c_ulong(flags | _MS_REMOUNT | _MS_RDONLY), None)
    os.chdir("/")
