"""How many descriptors a process may have. The limit is raised once, before the fork.

Every flow is a socket. Most systems start programs with a limit of 1024, for programs that use select(). This
program does not, and the systems allow far more.
"""

import sys
from typing import Final

if sys.platform != "win32":
    import resource

WANTED: Final = 65536
"""Enough for all flows that the default limits allow, and a table that the kernel can afford."""
MODEST: Final = 10240
"""What macOS grants (OPEN_MAX). It says that there is no limit, and then refuses more."""


def raise_soft(wanted: int = WANTED) -> int:
    """Raise the soft limit as far as the hard one allows, to wanted at most. It is never lowered. Returns it.

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
