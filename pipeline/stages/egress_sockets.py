"""Host sockets of the egress worker: how many there may be, and those that lead to services of the gateway.

A flow costs a descriptor, and guests decide how many flows there are. What they may not use up is the
reserve: connections of forwarded ports come in with it, and guest links in a process that has ingress
too. Which flow a socket belongs to is the stage's business.
"""

import errno
import socket
import sys
from collections.abc import Sized
from typing import Final

from pipeline.counters import INDEX
from pipeline.stages.worker import Worker

if sys.platform != "win32":
    import resource

RESERVE: Final = 64
"""Descriptors that flows of guests leave free."""

_TOO_MANY: Final = INDEX["egress_flow_refused_too_many_sockets"]


class SocketBound:
    """How many sockets the flows of guests may have, by the limit of this process."""

    def __init__(self, worker: Worker, *groups: Sized) -> None:
        """groups: what has one socket an item."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._counts = worker.counts
        self._groups = groups
        self.limit = max(soft - RESERVE, 1) if soft != resource.RLIM_INFINITY else 1 << 30

    def refuses(self) -> bool:
        """Whether one more socket is too many; counts it then."""
        if sum(map(len, self._groups)) < self.limit:
            return False
        self._counts[_TOO_MANY] += 1
        return True


def open_service(worker: Worker, name: str, guest: str, link: int) -> tuple[socket.socket | None, int]:
    """Connect a guest (``address:port``, behind link) to a service, whose end goes to the supervisor.

    Returns as pipeline.host.tcp.connect(): the socket (tune() it) and 0, or None and an errno.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        return None, error.errno or errno.EMFILE
    with theirs:
        try:
            worker.send_event({"event": "service", "name": name, "guest": guest, "link": link}, [theirs])
        except OSError as error:
            # It would have to wait, and there is no descriptor to keep it with.
            ours.close()
            return None, error.errno or errno.EMFILE
    return ours, 0
