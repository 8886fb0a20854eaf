"""Gives up the rights of a process for good: new privileges, capabilities, its user, and being looked at."""

import ctypes
import os
from typing import Final, NamedTuple

from pipeline.system.sandbox import libc

try:
    import pwd
except ImportError:  # Windows, where nothing here is called
    pwd = None  # type: ignore[assignment]

NOBODY: Final = 65534
"""The user and the group without rights, if the system's list has no user ``nobody``."""
_SETGID: Final = 6
_SETUID: Final = 7
_VERSION_3: Final = 0x20080522
_LAST_CAPABILITY: Final = 63
_AMBIENT_CLEAR_ALL: Final = 4


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class User(NamedTuple):
    """A user of this system, with its main group."""

    name: str
    uid: int
    gid: int


def find(name: str) -> User:
    """The user with this name or number. Raises KeyError if there is none. ``nobody`` always exists."""
    if name == "nobody":
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            return User(name, NOBODY, NOBODY)
    else:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    return User(found.pw_name, found.pw_uid, found.pw_gid)


def obstacle(user: User) -> str:
    """Why this process cannot become that user, "" if it can."""
    if os.getresuid() == (user.uid,) * 3:
        return ""
    effective = _effective()
    if not (effective >> _SETUID & 1 and effective >> _SETGID & 1):
        return "it needs CAP_SETUID and CAP_SETGID"
    for path, number in (("/proc/self/uid_map", user.uid), ("/proc/self/gid_map", user.gid)):
        if not _is_mapped(path, number):
            return f"the user namespace has no number {number}"
    return ""


def become(user: User) -> None:
    """Become that user for good, with its main group alone. Raises OSError."""
    if os.getresuid() == (user.uid,) * 3:
        return
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def refuse_new() -> None:
    """Run no program with more rights than this one has, for good (no_new_privs). Raises OSError."""
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)


def drop_bounds() -> None:
    """Give up all capabilities that a program could bring back. Does what this process may do."""
    for number in range(_LAST_CAPABILITY + 1):
        try:
            libc.prctl(libc.PR_CAPBSET_DROP, number)
        except OSError:
            # The kernel has no further capability, or this process has no right to drop one.
            break


def drop_capabilities() -> None:
    """Give up all capabilities of this thread. Raises OSError."""
    if not _permitted():
        return
    libc.call("capset", ctypes.byref(_Header(_VERSION_3, 0)), (_Sets * 2)())
    libc.prctl(libc.PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)


def hide() -> None:
    """Let no process of the same user trace this one or read its memory, and write no core dump."""
    libc.prctl(libc.PR_SET_DUMPABLE, 0)


def show() -> None:
    """Undo hide(), and what the kernel does when a process changes its user."""
    libc.prctl(libc.PR_SET_DUMPABLE, 1)


def _effective() -> int:
    low, high = _sets()
    return int(high.effective) << 32 | int(low.effective)


def _permitted() -> int:
    low, high = _sets()
    return int(high.permitted) << 32 | int(low.permitted)


def _sets() -> tuple[_Sets, _Sets]:
    sets = (_Sets * 2)()
    libc.call("capget", ctypes.byref(_Header(_VERSION_3, 0)), sets)
    return sets[0], sets[1]


def _is_mapped(path: str, number: int) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            rows = [list(map(int, line.split())) for line in file]
    except OSError:  # no /proc, or a kernel without user namespaces
        return True
    return any(first <= number < first + count for first, _, count in rows)


def can_read(user: User, path: str) -> bool:
    """Whether the permission bits let a user without other groups read a file or directory."""
    parents = [os.path.dirname(path)]
    while parents[-1] != os.path.dirname(parents[-1]):
        parents.append(os.path.dirname(parents[-1]))
    try:
        return _may(user, path, 4) and all(_may(user, parent, 1) for parent in parents)
    except OSError:
        return True  # there is nothing to read


def _may(user: User, path: str, bits: int) -> bool:
    found = os.stat(path)
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
    return found.st_mode >> shift & bits == bits
