"""Functions of the C library that Python has no names for. A failure is an OSError."""

import ctypes
import os
from functools import cache
from typing import Final

PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> None:
    """Call prctl(2) with up to four further arguments. Raises OSError."""
    padded = [ctypes.c_ulong(number) for number in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_library().prctl(option, *padded))


def system_call(number: int, *arguments: object) -> int:
    """Make a system call by its number: one that the C library has no function for. Raises OSError."""
    found: int = _library().syscall(ctypes.c_long(number), *arguments)
    return _check(found)


def call(name: str, *arguments: object) -> int:
    """Call a function that returns -1 and sets errno when it fails. Raises OSError."""
    found: int = getattr(_library(), name)(*arguments)
    return _check(found)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
