"""Why a connection ended (Tcb.end): the first FIN, unless something ended the connection at once."""

from typing import Final

NOT_ENDED: Final = 0
GUEST_FIN: Final = 1
"""Both sides ended in order, the guest first."""
HOST_FIN: Final = 2
"""Both sides ended in order, the host first."""
GUEST_RESET: Final = 3
HOST_RESET: Final = 4
"""The host socket broke, or the host had closed it and the guest sent more."""
TIMED_OUT: Final = 5
"""The guest does not answer, or the host did not answer connect()."""
CONNECT_FAILED: Final = 6
"""The host socket could not connect."""
UNREACHABLE: Final = 7
"""An ICMP error says that the guest's port cannot be reached."""
GUEST_GONE: Final = 8
"""The guest's link is down, and the guest did not come back."""
LIMIT: Final = 9
"""The connection made room for another one."""
DELETED: Final = 10
"""An operator ended it."""
FORBIDDEN: Final = 11
"""A new egress policy forbids it."""
PROXY_FAILED: Final = 12
"""The proxy of the egress policy has not led to the destination."""
