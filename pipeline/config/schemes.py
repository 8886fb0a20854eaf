"""Where guests and clients may come: the schemes of addresses, for each protocol.

options.py needs nothing else of the configuration, so help and version load little.
"""

from collections.abc import Mapping
from typing import Final

STREAM_SCHEMES: Final = ("unix", "tcp", "tcp4", "tcp6", "vsock", "fd")
"""Where clients of the API and guests on byte streams may come; fd is a descriptor passed by a parent."""
LINK_SCHEMES: Final[Mapping[str, tuple[str, ...]]] = {
    "qemu": STREAM_SCHEMES,
    "le16": STREAM_SCHEMES,
    "vpnkit": STREAM_SCHEMES,
    "bess": ("unixpacket", "fd"),
    "vfkit": ("unixgram", "fd"),
}
"""Protocols that may stand before the + of ``links``, and schemes after it. ``-listen-NAME`` has the same."""
