"""How many sockets the resolver may use for questions upstream: fewer if there are few descriptors."""

import sys
from typing import Final

from pipeline.host.upstream.resolver import MAX_SOCKETS
from pipeline.stages.resolver.streams import MAX_CONNECTIONS

if sys.platform != "win32":
    import resource

OTHERS: Final = 128
"""Descriptors of the process that are not for DNS: bells, control sockets, files, listeners."""
LEAST_SOCKETS: Final = 64


def question_sockets() -> int:
    """The most sockets for questions: those that guests' DNS connections leave, at least LEAST_SOCKETS."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_SOCKETS
    return max(LEAST_SOCKETS, min(MAX_SOCKETS, soft - MAX_CONNECTIONS - OTHERS))
