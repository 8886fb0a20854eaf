"""Puts this process into a sandbox, for good: no new rights, no files, few system calls.

Each part stands alone. What the system lacks is left out, or an error (``strict``). The process must have one
thread: some parts hold for the thread that asks for them, and for threads that it starts later.
"""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pipeline.system.sandbox import landlock, libseccomp, mounts, privileges, seccomp
from pipeline.system.sandbox.calls import Calls
from pipeline.system.sandbox.privileges import User

LINUX: Final = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class Profile:
    """What one process keeps.

    ``calls``: the system calls. ``own``: the names of those that must concern the process itself (argument 0
    is its id). ``absent``: calls that fail as if the kernel did not have them.
    ``fruitless``: calls that are refused, but never kill the process. ``readable``: directories whose files
    it can read. ``tcp``: whether it has sockets of TCP to hosts. ``abstract``: whether it reaches unix
    sockets with abstract names. ``user``: whom it becomes, None if it keeps its user.
    """

    calls: Calls
    own: tuple[str, ...] = ()
    absent: Calls = ()
    fruitless: Calls = ()
    readable: tuple[str, ...] = ()
    tcp: bool = False
    abstract: bool = False
    user: User | None = None


def shortages(user: User | None) -> list[str]:
    """What this system lacks for a whole sandbox, each as a text. user: whom the process would become."""
    if not LINUX:
        return [f"this system ({sys.platform}) has no seccomp and no Landlock"]
    found = []
    if missing := libseccomp.shortage():
        found.append(f"system calls are not filtered: {missing}")
    if not landlock.version():
        found.append("the kernel has no Landlock, has it switched off, or a filter forbids it")
    if user is not None and (why := privileges.obstacle(user)):
        found.append(f"workers keep their user instead of {user.name}: {why}")
    return found


def enter(profile: Profile, *, strict: bool) -> list[str]:
    """Give up all that the profile does not keep. Returns what failed, each as a text.

    What shortages() has reported is left out. strict: a system call that is not allowed kills the process.
    Otherwise it fails with EPERM.
    """
    if not LINUX:
        return []
    failed: list[str] = []
    # Python would write the bytecode of a library that it loads later: a call that no list has.
    sys.dont_write_bytecode = True
    # This loads the library, which takes a file, unless prepare() has loaded it.
    filters = [] if libseccomp.shortage() else [_filter]
    privileges.drop_bounds()
    for part in (_refuse_new, _leave_files, _become, _drop, *filters):
        try:
            part(profile, strict)
        except OSError as error:
            failed.append(f"{part.__name__[1:]}: {error.strerror}")
    return failed


def prepare(profile: Profile, *, strict: bool) -> None:
    """Make here what a process needs that is forked later and enters. Otherwise each would take 2 MB for it.

    A failure is left to enter().
    """
    if LINUX and not libseccomp.shortage():
        with suppress(OSError):
            _filters_of(profile, strict=strict)


def _refuse_new(_profile: Profile, _strict: bool) -> None:
    privileges.refuse_new()


def _leave_files(profile: Profile, _strict: bool) -> None:
    if landlock.version():
        landlock.restrict(profile.readable, tcp=profile.tcp, abstract=profile.abstract)
    elif not profile.readable:
        with suppress(OSError):  # shortages() has named what is missing
            mounts.leave_all()


def _become(profile: Profile, _strict: bool) -> None:
    if profile.user is not None and not privileges.obstacle(profile.user):
        privileges.become(profile.user)


def _drop(_profile: Profile, _strict: bool) -> None:
    privileges.drop_capabilities()
    privileges.hide()


def _filter(profile: Profile, strict: bool) -> None:
    own = libseccomp.own(profile.own, os.getpid(), kill=strict)
    # The last of these refuses further ones.
    seccomp.load(libseccomp.number(), (own, *_filters_of(profile, strict=strict)))


def _filters_of(profile: Profile, *, strict: bool) -> tuple[seccomp.Filter, ...]:
    return libseccomp.filters(profile.calls, profile.absent, profile.fruitless, kill=strict)
