"""Filters of system calls."""

import errno
import os
import signal
import socket
from functools import partial

import pytest

from pipeline.system.sandbox import libseccomp, privileges, seccomp
from pipeline.system.sandbox.calls import Arg, Call, Calls, calls, each_value
from tests.support.in_child import in_child, outcome

pytestmark = pytest.mark.skipif(libseccomp.shortage() != "", reason="this system cannot filter calls")
NEEDED = calls(
    "what Python and the test need",
    *("read", "write", "close", "brk", "mmap", "munmap", "mprotect", "futex", "exit_group", "getsockname"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "fcntl", "getsockopt", "ioctl", "fstat", "lseek"),
)
REFUSED = os.strerror(errno.EPERM)


def load(kept: Calls, absent: Calls = (), fruitless: Calls = (), *, kill: bool = False) -> None:
    seccomp.load(libseccomp.number(), libseccomp.filters(kept, absent, fruitless, kill=kill))


def test_a_call_is_kept_for_the_values_of_its_arguments() -> None:
    def run() -> list[str]:
        privileges.refuse_new()
        kept = (
            *NEEDED,
            *each_value("socket", "one family", 0, [socket.AF_INET]),
            Call("openat", "files that are only read", (Arg(2, 0, os.O_ACCMODE),)),
            Call("no_such_call", "an older system lacks it"),
        )
        load(kept, calls("too new", "getcwd"))
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
        load(NEEDED, fruitless=calls("in vain", "getcwd"), kill=True)
        return [outcome(os.getcwd)]

    assert in_child(run) == [REFUSED]


def test_a_process_that_is_forked_later_need_not_write_its_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (*NEEDED, Call("getpid", "this test alone keeps it"))
    before = libseccomp.filters(kept, (), (), kill=False)

    def run() -> list[object]:
        monkeypatch.setattr(libseccomp, "_program", lambda *_: pytest.fail("it has been written before"))
        privileges.refuse_new()
        load(kept)
        return [libseccomp.filters(kept, (), (), kill=False) == before, outcome(os.getcwd)]

    assert in_child(run) == [True, REFUSED]


def signal_oneself_and_others(*, kill: bool) -> list[str]:
    privileges.refuse_new()
    pids = os.getpid(), os.getppid()
    own = libseccomp.own(("tgkill", "kill"), os.getpid(), kill=kill)
    others = libseccomp.filters((*NEEDED, *calls("signals", "kill")), (), (), kill=kill)
    seccomp.load(libseccomp.number(), [own, *others])
    return [outcome(partial(os.kill, pid, 0)) for pid in pids]


def test_a_process_signals_itself_alone() -> None:
    assert in_child(partial(signal_oneself_and_others, kill=False)) == ["works", REFUSED]


def test_who_signals_another_process_may_be_killed() -> None:
    pid = os.fork()
    if pid == 0:
        signal_oneself_and_others(kill=True)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGSYS


def test_a_program_that_the_kernel_refuses_is_an_error() -> None:
    def run() -> str:
        privileges.refuse_new()
        try:
            seccomp.load(libseccomp.number(), [seccomp.Filter(b"\xff" * 8, logged=False)])
        except OSError as error:
            return error.strerror or ""
        return "works"

    assert in_child(run) == os.strerror(errno.EINVAL)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "LIBRARY", "libnonexistent.so.2")

    def run() -> str:
        libseccomp.forget_library()
        return libseccomp.shortage()

    assert in_child(run) == "libnonexistent.so.2 is not installed"


def test_a_processor_whose_calls_are_not_listed_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp.sys, "maxsize", 2**31 - 1)
    assert "64 bits" in libseccomp.shortage()
