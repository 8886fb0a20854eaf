"""What the first bytes of a flow state about where it leads: the name of a host, or why there is none."""

from typing import Final, NamedTuple

MORE: Final = 0
"""The bytes so far do not say it. More of them may."""
NAME: Final = 1
"""They state one name."""
NAMELESS: Final = 2
"""The protocol can state a name, and these bytes do not."""
CONTRADICTION: Final = 3
"""They state two names, or are written so that two readers may see two names."""
OTHER: Final = 4
"""Another protocol, which states no name in its first bytes."""

TLS: Final = "tls"
HTTP: Final = "http"
QUIC: Final = "quic"


class Stated(NamedTuple):
    """What the bytes state. ``name``: in lower case, without the last dot. ``protocol``: "" if it is unknown.

    ``ech``: the hello has an encrypted hello inside, or pretends to (GREASE). The name is the outer one.
    """

    kind: int
    name: str = ""
    protocol: str = ""
    ech: bool = False


WAITING: Final = Stated(MORE)
UNKNOWN: Final = Stated(OTHER)
