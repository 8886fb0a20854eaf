"""Filters of system calls."""

import errno
import os
import socket
from functools import partial

import pytest

from pipeline.system.sandbox import libseccomp, privileges
from pipeline.system.sandbox.calls import Arg, Call, calls, each_value
from tests.support.in_child import in_child, outcome

pytestmark = pytest.mark.skipif(libseccomp.shortage() != "", reason="this system cannot filter calls")
NEEDED = calls(
    "what Python and the test need",
    *("read", "write", "close", "brk", "mmap", "munmap", "mprotect", "futex", "exit_group", "getsockname"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "fcntl", "getsockopt", "ioctl", "fstat", "lseek"),
)
REFUSED = os.strerror(errno.EPERM)


def test_a_call_is_kept_for_the_values_of_its_arguments() -> None:
    def run() -> list[str]:
        privileges.refuse_new()
        kept = (
            *NEEDED,
            *each_value("socket", "one family", 0, [socket.AF_INET]),
            Call("openat", "files that are only read", (Arg(2, 0, os.O_ACCMODE),)),
            Call("no_such_call", "an older system lacks it"),
        )
        libseccomp.load(kept, calls("too new", "getcwd"), (), kill=False)
        return [
            outcome(partial(socket.socket, socket.AF_INET)),
            outcome(partial(socket.socket, socket.AF_UNIX)),
            outcome(partial(os.open, "/", os.O_RDONLY)),
            outcome(partial(os.open, "/nonexistent", os.O_WRONLY)),
            outcome(os.getcwd),
            outcome(partial(os.kill, os.getpid(), 0)),
        ]

    missing = os.strerror(errno.ENOSYS)
    assert in_child(run) == ["works", REFUSED, "works", REFUSED, missing, REFUSED]


def test_a_filter_that_kills_spares_who_tries_in_vain() -> None:
    def run() -> list[str]:
        privileges.refuse_new()
        libseccomp.load(NEEDED, (), calls("in vain", "getcwd"), kill=True)
        return [outcome(os.getcwd)]

    assert in_child(run) == [REFUSED]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "LIBRARY", "libnonexistent.so.2")

    def run() -> str:
        libseccomp.forget_library()
        return libseccomp.shortage()

    assert in_child(run) == "libnonexistent.so.2 is not installed"
