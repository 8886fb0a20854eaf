"""System calls that demux keeps besides those of all workers (pipeline.stages.system_calls): none.

Demux has rings, a bell and its control sockets.
"""

from typing import Final

from pipeline.system.sandbox.calls import Calls

CALLS: Final[Calls] = ()
