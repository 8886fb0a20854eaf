"""How many descriptors a process may have: raised once, before anything is forked.

Every flow is a socket. Most systems start programs with a limit (1024) made for programs that use select(),
which this one does not, and allow far more.
"""

import resource
from typing import Final

WANTED: Final = 65536
"""Enough for all flows that the default limits allow, and a table that the kernel can afford."""


def raise_soft(wanted: int = WANTED) -> int:
    """Raise the soft limit as far as the hard one allows, to wanted at most; never lowers. Returns the limit.

    Forked processes inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
