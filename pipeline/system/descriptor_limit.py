"""How many descriptors a process may have: raised once, before anything is forked.

Every flow is a socket. Most systems start programs with a limit (1024) made for programs that use select(),
which this one does not, and allow far more.
"""

import sys
from typing import Final

if sys.platform != "win32":
    import resource

WANTED: Final = 65536
"""Enough for all flows that the default limits allow, and a table that the kernel can afford."""
MODEST: Final = 10240
"""What macOS (OPEN_MAX) grants where it says that there is no limit and then refuses more."""


def raise_soft(wanted: int = WANTED) -> int:
    """Raise the soft limit as far as the hard one allows, to wanted at most; never lowers. Returns the limit.

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
