"""The limit of open descriptors of a process. The supervisor raises it once, before the fork.

Every flow is a socket. Most systems start programs with a limit of 1024, which select() needs. This program
does not use select(), and the systems allow far more.
"""

import sys
from typing import Final

if sys.platform != "win32":
    import resource

WANTED: Final = 65536
"""Enough for all flows that the default limits allow. The kernel's table for them stays small."""
MODEST: Final = 10240
"""OPEN_MAX of macOS. Its hard limit is "unlimited", but setrlimit() refuses more than this."""


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
