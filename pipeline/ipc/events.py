"""What can happen to a descriptor, as bits: what a worker registers for, and what its callbacks get.

The numbers are those of epoll, which hands them over as they are; on systems with kqueue
``pipeline.stages.poller`` makes them of filters and flags. They are written down here because links and
host sockets must not need a system that has epoll.
"""

from typing import Final

READ: Final = 0x001
"""There is something to read, an end included."""
WRITE: Final = 0x004
"""There is room to write, or a connection has come about or failed."""
ERROR: Final = 0x008
"""The descriptor has an error to tell. Always reported, whether asked for or not."""
HANGUP: Final = 0x010
"""Both directions are over. Always reported, whether asked for or not."""
READ_HANGUP: Final = 0x2000
"""The other end sends nothing more."""
EDGE: Final = 1 << 31
"""When registering: tell of each change once, instead of as long as something is there."""
