"""System calls that egress keeps besides those of all workers (pipeline.stages.system_calls).

Egress opens sockets to hosts for guests. It gets accepted connections and bound sockets from listen.
"""

from typing import Final

from pipeline.stages.system_calls import INET_SOCKETS
from pipeline.system.sandbox.calls import Calls, each_value

_AF_UNIX: Final = 1
"""Windows, where this is only loaded, has no name for it."""

CALLS: Final[Calls] = (
    *INET_SOCKETS,
    *each_value("socketpair", "a guest's connection to the gateway's services", 0, (_AF_UNIX,)),
)
