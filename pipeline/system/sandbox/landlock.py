"""Takes the file system away from this process, with Landlock (Linux 5.13 and later).

The kernel refuses each access that a ruleset handles and that no rule allows. This module handles all
accesses that the kernel's version of Landlock knows. Files that are open already stay usable.
"""

import ctypes
import os
from collections.abc import Sequence
from typing import Final

from pipeline.system.sandbox import libc

_CREATE: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
"""Numbers of the system calls on all processors that Linux and Python share."""
_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_FILES: Final = ((1, 13), (2, 14), (3, 15), (5, 16))
"""From each version on: how many kinds of access to files there are."""
_NET_VERSION: Final = 4
_NET: Final = 0b11
"""Binding and connecting TCP sockets."""
_SCOPE_VERSION: Final = 6
_ABSTRACT_SOCKETS: Final = 1
_SIGNALS: Final = 2


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of the kernel's Landlock; 0 if it has none, or if it is switched off."""
    try:
        return libc.system_call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError:
        return 0


def restrict(readable: Sequence[str] = (), *, tcp: bool = False, abstract: bool = False) -> None:
    """Leave this thread and the threads that it starts no file, except those beneath these directories.

    They stay readable. A directory that does not exist is left out. tcp: sockets of TCP may be connected and
    bound. abstract: unix sockets with abstract names may be connected. Signals reach only processes that are
    restricted alike. Needs no_new_privs, and version() above 0. Raises OSError.
    """
    found = version()
    count = max(kinds for since, kinds in _FILES if found >= since)
    ruleset = _Ruleset((1 << count) - 1)
    size = 8
    if found >= _NET_VERSION:
        ruleset.net, size = 0 if tcp else _NET, 16
    if found >= _SCOPE_VERSION:
        ruleset.scoped, size = _SIGNALS | (0 if abstract else _ABSTRACT_SOCKETS), 24
    fd = libc.system_call(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path in readable:
            _allow(fd, path)
        libc.system_call(_RESTRICT_SELF, ctypes.c_int(fd), ctypes.c_uint32(0))
    finally:
        os.close(fd)


def _allow(ruleset: int, path: str) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    except OSError:
        return
    try:
        rule = _PathBeneath(_READ_FILE | _READ_DIR, parent)
        libc.system_call(
            *(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH)),
            *(ctypes.byref(rule), ctypes.c_uint32(0)),
        )
    finally:
        os.close(parent)
