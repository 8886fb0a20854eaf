"""Gives the kernel filters of system calls (seccomp(2)), which libseccomp.py has written."""

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.system.sandbox import libc

_SET_MODE_FILTER: Final = 1
# SECCOMP_FILTER_FLAG_TSYNC, _LOG and _SPEC_ALLOW.
_ALL_THREADS: Final = 1
_LOG: Final = 2
_NO_MITIGATION: Final = 4
"""Before Linux 5.16 a filter also closed a hole (SSBD) that matters where a program runs code of strangers,
and made the process slower. Workers only read their bytes."""
_INSTRUCTION: Final = 8  # bytes


class Filter(NamedTuple):
    """A program for the kernel. ``logged``: whether it logs what the program does not allow."""

    program: bytes
    logged: bool


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load(number: int, filters: Sequence[Filter]) -> None:
    """Filter the calls of all threads of this process from now on. number: of seccomp(2). Raises OSError.

    All filters of a process are asked, and the strictest answer counts. Needs no_new_privs.
    """
    for each in filters:
        program = _Program(len(each.program) // _INSTRUCTION, each.program)
        best = _ALL_THREADS | _NO_MITIGATION | (_LOG if each.logged else 0)
        # Linux has _LOG since 4.14 and _NO_MITIGATION since 4.17. Without them the filter does the same.
        for flags in (best, best & ~_NO_MITIGATION, _ALL_THREADS):
            if _set(number, flags, program):
                break
        else:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _set(number: int, flags: int, program: _Program) -> bool:
    """Whether the kernel knows these flags. Raises OSError if it does not take the program."""
    try:
        other = libc.system_call(number, _SET_MODE_FILTER, ctypes.c_uint(flags), ctypes.byref(program))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    if other:
        raise OSError(errno.ESRCH, "another thread has a filter of its own")
    return True
