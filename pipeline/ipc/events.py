"""Events of a descriptor, as bits: a worker registers for them, and its callbacks get them.

The numbers are those of epoll. On systems with kqueue, pipeline.ipc.poller translates its filters and flags.
They are constants of their own because the module ``select`` has epoll's constants on Linux only.
"""

import select
from typing import Final

READ: Final = 0x001
"""There are bytes to read, or the end of the stream."""
URGENT: Final = 0x002
"""There are urgent bytes. kqueue cannot tell, so it says this with every READ."""
WRITE: Final = 0x004
"""There is room to write, or connect() has succeeded or failed."""
ERROR: Final = 0x008
"""The descriptor has an error. Always reported, even if not registered for."""
HANGUP: Final = 0x010
"""Both directions have ended. Always reported, even if not registered for."""
READ_HANGUP: Final = 0x2000
"""The other end will send no more."""
HANGUP_WITHOUT_WRITE: Final = hasattr(select, "epoll")
"""Whether HANGUP is reported for a descriptor that is registered for READ and not for WRITE."""
EDGE: Final = 1 << 31
"""For registering: report each change once (edge-triggered), not as long as it lasts."""
