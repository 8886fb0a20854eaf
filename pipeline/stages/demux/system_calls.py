"""System calls that demux keeps besides those of all workers (pipeline.stages.system_calls): none.

Demux has rings, a bell and its control sockets.
"""

import socket
from typing import Final

from pipeline.system.sandbox.calls import Arg, Call, Calls, calls

CALLS: Final[Calls] = ()
ROUTE: Final[Calls] = (
    Call(
        "socket",
        "a UDP socket over IPv6 finds out whether there is a route",
        (Arg(0, socket.AF_INET6), Arg(1, socket.SOCK_DGRAM, 0xF)),
    ),
    *calls("the same: the system chooses a route and an address, and sends nothing", "connect", "bind"),
)
"""What demux keeps besides if guests have a default route over IPv6 only while the host has one."""
