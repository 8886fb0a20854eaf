"""Writes and loads a filter of system calls with libseccomp, which every major distribution has.

The library knows the numbers of all calls on all processors, and writes the filter's program. Its Python
bindings on PyPI are not used: loading them runs ldconfig twice, and a compiler where the library is missing
(docs/decisions.md).
"""

import ctypes
import errno
import os
from functools import cache
from typing import Final

from pipeline.system.sandbox import libc
from pipeline.system.sandbox.calls import Calls

LIBRARY: Final = "libseccomp.so.2"

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_MASKED_EQ: Final = 7
_GET_ACTION_AVAIL: Final = 2
# enum scmp_filter_attr
_ACT_BADARCH: Final = 2
_CTL_TSYNC: Final = 4
_CTL_LOG: Final = 6
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
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    return library


def forget_library() -> None:
    """Look for the library again when it is needed next."""
    _library.cache_clear()


def shortage() -> str:
    """Why this system cannot filter system calls, "" if it can."""
    try:
        _library()
    except OSError:
        return f"{LIBRARY} is not installed"
    action = ctypes.c_uint32(_ERRNO)
    try:
        number = _library().seccomp_syscall_resolve_name(b"seccomp")
        libc.system_call(number, _GET_ACTION_AVAIL, 0, ctypes.byref(action))
    except OSError:
        return "the kernel has no seccomp filters, or a filter of the service manager forbids them"
    return ""


def load(kept: Calls, absent: Calls, fruitless: Calls, *, kill: bool) -> None:
    """Filter the calls of all threads of this process from now on. Raises OSError.

    kept: these calls are allowed. absent: these fail with ENOSYS, so that the C library uses older ones.
    kill: all others kill the process, except those of fruitless. Otherwise they fail with EPERM. The kernel
    logs each call that is refused or kills.
    """
    refused = _ERRNO | errno.EPERM
    rules = []
    if kill:
        # A rule without conditions would replace those that keep some calls of this name.
        names = {call.name for call in kept}
        rules.append((refused, tuple(call for call in fruitless if call.when or call.name not in names)))
    # The first filter refuses what the second one allows: these calls are no offence, and are not logged.
    _load(ALLOW, [(_ERRNO | errno.ENOSYS, absent)], logged=False)
    _load(KILL if kill else refused, [(ALLOW, (*kept, *absent)), *rules], logged=True)


def _load(otherwise: int, rules: list[tuple[int, Calls]], *, logged: bool) -> None:
    library = _library()
    context = library.seccomp_init(otherwise)
    if not context:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    try:
        _set(context, _ACT_BADARCH, KILL)
        _set(context, _CTL_TSYNC, 1)
        for attribute, value in ((_CTL_LOG, int(logged)), (_CTL_OPTIMIZE, _BINARY_TREE)):
            # Since 2.4 and 2.5. Without them the filter does the same, unlogged or more slowly.
            library.seccomp_attr_set(context, attribute, value)
        for action, listed in rules:
            _add(context, action, listed)
        _check(library.seccomp_load(context))
    finally:
        library.seccomp_release(context)


def _add(context: int, action: int, listed: Calls) -> None:
    library = _library()
    for name, when in dict.fromkeys((call.name, call.when) for call in listed):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # the library or this processor does not have it
            continue
        compares = (_Compare * len(when))(
            *(_Compare(arg.number, _MASKED_EQ, arg.mask, arg.value & arg.mask) for arg in when)
        )
        _check(library.seccomp_rule_add_array(context, action, number, len(when), compares))


def _set(context: int, attribute: int, value: int) -> None:
    _check(_library().seccomp_attr_set(context, attribute, value))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
