"""Writes filters of system calls with libseccomp, which every major distribution has.

The library knows the numbers of all calls on all processors, and writes the filter's program. Its Python
bindings on PyPI are not used: loading them runs ldconfig twice, and a compiler where the library is missing
(docs/decisions.md).
"""

import ctypes
import errno
import os
import sys
from functools import cache
from typing import Final

from pipeline.system.sandbox import libc
from pipeline.system.sandbox.calls import Arg, Call, Calls
from pipeline.system.sandbox.seccomp import Filter

LIBRARY: Final = "libseccomp.so.2"

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_NE: Final = 1
_MASKED_EQ: Final = 7
_GET_ACTION_AVAIL: Final = 2
# enum scmp_filter_attr
_ACT_BADARCH: Final = 2
_CTL_OPTIMIZE: Final = 8
_BINARY_TREE: Final = 2


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("index", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


@cache
def _library() -> ctypes.CDLL:
    """The library. Raises OSError if it is not installed."""
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_void_p),
    )
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    return library


def forget_library() -> None:
    """Look for the library again when it is needed next."""
    _library.cache_clear()


def shortage() -> str:
    """Why this system cannot filter system calls, "" if it can."""
    if sys.maxsize <= 1 << 32:
        # Its own calls for times, files and memory are not listed: mmap2, futex_time64 and many others.
        return "the lists of system calls are for processors of 64 bits"
    try:
        _library()
    except OSError:
        return f"{LIBRARY} is not installed"
    action = ctypes.c_uint32(_ERRNO)
    try:
        libc.system_call(number(), _GET_ACTION_AVAIL, 0, ctypes.byref(action))
    except OSError:
        return "the kernel has no seccomp filters, or a filter of the service manager forbids them"
    return ""


def number() -> int:
    """The number of seccomp(2) on this processor. Raises OSError if the library is not installed."""
    found: int = _library().seccomp_syscall_resolve_name(b"seccomp")
    return found


@cache
def filters(kept: Calls, absent: Calls, fruitless: Calls, *, kill: bool) -> tuple[Filter, ...]:
    """The filters of a process that keeps these calls, for seccomp.load(). Raises OSError.

    kept: these calls are allowed. absent: these fail with ENOSYS, so that the C library uses older ones.
    kill: all others kill the process, except those of fruitless. Otherwise they fail with EPERM. The kernel
    logs each call that is refused or kills. The result is kept: a process that is forked later has it.
    """
    refused = _ERRNO | errno.EPERM
    rules = []
    if kill:
        # A rule without conditions would replace those that keep some calls of this name.
        names = {call.name for call in kept}
        rules.append((refused, tuple(call for call in fruitless if call.when or call.name not in names)))
    # The first filter refuses what the second one allows: these calls are no offence, and are not logged.
    return (
        Filter(_program(ALLOW, [(_ERRNO | errno.ENOSYS, absent)]), logged=False),
        Filter(_program(KILL if kill else refused, [(ALLOW, (*kept, *absent)), *rules]), logged=True),
    )


def own(names: tuple[str, ...], pid: int, *, kill: bool) -> Filter:
    """A further filter, which keeps these calls only if their argument 0 is the process id. Raises OSError.

    It is apart, since it is the one part of a filter that differs between processes of one kind.
    """
    listed = tuple(Call(name, "", (Arg(0, pid),)) for name in names)
    return Filter(_program(ALLOW, [(KILL if kill else _ERRNO | errno.EPERM, listed)], _NE), logged=True)


def _program(otherwise: int, rules: list[tuple[int, Calls]], operator: int = _MASKED_EQ) -> bytes:
    """operator: how arguments are compared."""
    library = _library()
    context = library.seccomp_init(otherwise)
    if not context:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    try:
        _check(library.seccomp_attr_set(context, _ACT_BADARCH, KILL))
        # Since 2.5. Without it the filter does the same, more slowly.
        library.seccomp_attr_set(context, _CTL_OPTIMIZE, _BINARY_TREE)
        for action, listed in rules:
            _add(context, action, listed, operator)
        with open(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b") as file:
            _check(library.seccomp_export_bpf(context, file.fileno()))
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def _add(context: int, action: int, listed: Calls, operator: int) -> None:
    library = _library()
    for name, when in dict.fromkeys((call.name, call.when) for call in listed):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # the library or this processor does not have it
            continue
        compares = (_Compare * len(when))(*(_compare(arg, operator) for arg in when))
        _check(library.seccomp_rule_add_array(context, action, number, len(when), compares))


def _compare(arg: Arg, operator: int) -> _Compare:
    # With another operator than _MASKED_EQ the first number is what the argument is compared with.
    first = arg.mask if operator == _MASKED_EQ else arg.value
    return _Compare(arg.number, operator, first, arg.value & arg.mask)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
