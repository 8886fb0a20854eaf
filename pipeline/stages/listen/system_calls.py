"""System calls that listen keeps besides those of all workers (pipeline.stages.system_calls).

Listen gets bound sockets from the supervisor, accepts connections, and passes them to egress.
"""

from typing import Final

from pipeline.system.sandbox.calls import Calls, calls

CALLS: Final[Calls] = calls("connections of host clients", "accept4", "accept")
