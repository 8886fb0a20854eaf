"""The lists of system calls hold on every processor, although some lack calls that others have."""

import ctypes

import pytest

from pipeline.stages import system_calls
from pipeline.stages.demux import system_calls as demux
from pipeline.stages.egress import system_calls as egress
from pipeline.stages.ingress import system_calls as ingress
from pipeline.stages.listen import system_calls as listen
from pipeline.stages.resolver import system_calls as resolver
from pipeline.stages.tcp import system_calls as tcp
from pipeline.system.sandbox import libseccomp
from pipeline.system.sandbox.calls import Calls

LISTS = {
    "all": system_calls.COMMON,
    "absent": system_calls.ABSENT,
    "fruitless": system_calls.FRUITLESS,
    "own": system_calls.OWN_SIGNALS,
    "ingress": ingress.CALLS + ingress.TUNNEL,
    "demux": demux.CALLS + demux.ROUTE,
    "tcp": tcp.CALLS,
    "egress": egress.CALLS,
    "resolver": resolver.CALLS,
    "listen": listen.CALLS,
}
AARCH64 = 0xC00000B7
"""AUDIT_ARCH_AARCH64"""
INSTEAD = {
    "access": "faccessat",
    "dup2": "dup3",
    "epoll_wait": "epoll_pwait",
    "lstat": "newfstatat",
    "open": "openat",
    "poll": "ppoll",
    "readlink": "readlinkat",
    "stat": "newfstatat",
}
"""What the C library calls on processors that are newer than these calls, such as Arm64."""
each_list = pytest.mark.parametrize("listed", LISTS.values(), ids=LISTS.keys())


@each_list
def test_a_call_that_some_processors_lack_is_listed_with_its_successor(listed: Calls) -> None:
    names = {call.name for call in listed}
    missing = {name: INSTEAD[name] for name in names & INSTEAD.keys() if INSTEAD[name] not in names}
    assert missing == {}


@each_list
def test_arm64_has_every_call_but_those_with_a_successor(listed: Calls) -> None:
    try:
        resolve = ctypes.CDLL(libseccomp.LIBRARY).seccomp_syscall_resolve_name_arch
    except OSError:
        pytest.skip(f"{libseccomp.LIBRARY} is not installed")
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    missing = {call.name for call in listed if resolve(AARCH64, call.name.encode()) < 0}
    assert missing <= INSTEAD.keys()


@pytest.mark.parametrize("role", ["ingress", "demux", "tcp", "egress", "resolver", "listen"])
def test_a_filter_can_be_written_for_this_processor(role: str) -> None:
    kept = LISTS["all"] + LISTS["own"] + LISTS[role]
    try:
        filters = libseccomp.filters(kept, system_calls.ABSENT, system_calls.FRUITLESS, kill=True)
    except OSError as error:
        if libseccomp.LIBRARY not in str(error):
            raise
        pytest.skip(f"{libseccomp.LIBRARY} is not installed")
    assert all(len(each.program) % 8 == 0 and each.program for each in filters)
