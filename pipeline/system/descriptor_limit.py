"""The limit of open descriptors of a process. The supervisor raises it once, before the fork.

Every flow is a socket. Most systems start programs with a limit of 1024, which select() needs. This program
does not use select(), and the systems allow far more.
"""

import errno
import sys
from typing import Final

if sys.platform != "win32":
    import resource

WANTED: Final = 65536
"""Enough for all flows that the default limits allow. The kernel's table for them stays small."""
MODEST: Final = 10240
"""OPEN_MAX of macOS. Its hard limit is "unlimited", but setrlimit() refuses more than this."""

MAX_LINKS: Final = 256
LINKS_PART: Final = 8
"""Links of guests may have one part in this many of the descriptors, and never more than MAX_LINKS."""


def soft() -> int:
    """The soft limit of this process; -1 if there is none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return -1 if limit == resource.RLIM_INFINITY else limit


def links() -> int:
    """How many links guests may have with the limit of this process."""
    limit = soft()
    return MAX_LINKS if limit < 0 else max(1, min(MAX_LINKS, limit // LINKS_PART))


NEEDED: Final = 128
"""What the program has open without any guest, and some more."""


def advice(error: BaseException | None) -> str:
    """What helps if an error, or one that led to it, means that descriptors ran out; else ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return (
                f" (the limit of this process is {soft} descriptors, and it needs {NEEDED} without guests: "
                "ulimit -n, LimitNOFILE= of a systemd unit)"
            )
        error = error.__cause__
    return ""


def raise_soft(wanted: int = WANTED) -> int:
    """Raise the soft limit to wanted, or as far as the hard limit allows. Never lower it. Returns the limit.

    Forked processes inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return soft
    for limit in (allowed, MODEST):
        if soft < limit <= allowed:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            except (ValueError, OSError):
                continue
            return limit
    return soft
