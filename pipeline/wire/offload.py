"""The offload extension of ``/connect``: the handshake after which frames have a virtio-net header.

docs/offload.md describes the whole protocol. The agent in the guest asks for it with a header line of its
HTTP request. A host that knows the extension sends the record OFFER, the agent sends ACCEPT, and the host
sends START. A record is framed like a frame (2-byte little-endian length), but is shorter than any Ethernet
frame. So a peer that does not expect one drops it as a runt. After ACCEPT the agent's frames have the new
form, and after START the host's.

::

    0       4     5        6         7         8          12
    "GVTO"  kind  version  vnet_len  reserved  features

The new form is ``FRAMING``: a 4-byte little-endian length that counts a virtio-net header (12 bytes,
pipeline.wire.virtio_net) and the Ethernet frame.
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import virtio_net
from pipeline.wire.framing import LE16, Framing

REQUEST_HEADER: Final = "Gvtap-Offload"
"""The header's value lists the versions that the agent knows, separated by commas."""
VERSION: Final = 1
VNET_LEN: Final[int] = virtio_net.LONG_LEN
MAX_ETHERNET_HEADER: Final = 18
"""Bytes, with a VLAN tag."""
FRAMING: Final = Framing(Struct("<I"), 4, VNET_LEN + MAX_ETHERNET_HEADER + 0xFFFF)

CSUM: Final = 0x01
TSO4: Final = 0x02
TSO6: Final = 0x04
USO4: Final = 0x20
USO6: Final = 0x40
"""Features: work that one side may leave to the other. The numbers are Linux's TUN_F_*."""
FEATURES: Final = CSUM | TSO4 | TSO6 | USO4 | USO6
"""What the agent may leave to the host."""
UFO: Final = 0x10
"""Datagrams that are longer than the MTU, to be cut into fragments. Linux gave it up in 4.14."""

OFFER: Final = 1
"""Host to agent, its first record: the version and the features that it accepts."""
ACCEPT: Final = 2
"""Agent to host, its first record: the version and the features that it will use."""
START: Final = 3
"""Host to agent, the answer to ACCEPT."""

_RECORD: Final = Struct("<4sBBBxI")
_MAGIC: Final = b"GVTO"
RECORD_LEN: Final = _RECORD.size


class Record(NamedTuple):
    """OFFER, ACCEPT or START."""

    kind: int
    version: int
    vnet_len: int
    features: int


def build(kind: int, features: int, version: int = VERSION, vnet_len: int = VNET_LEN) -> bytes:
    """A record with its length prefix."""
    return LE16.prefix.pack(RECORD_LEN) + _RECORD.pack(_MAGIC, kind, version, vnet_len, features)


def parse(view: memoryview | bytes, off: int, length: int) -> Record | None:
    """The record at view[off:off+length], after its prefix; None for anything else."""
    if length != RECORD_LEN or off + length > len(view):
        return None
    magic, *fields = _RECORD.unpack_from(view, off)
    return Record(*fields) if magic == _MAGIC else None


def choose(versions: str) -> int:
    """The version to use with an agent whose request header has this value; 0 for none.

    Values that are not numbers, and anything after a semicolon, are ignored: future versions may define them.
    """
    asked = {text.partition(";")[0].strip() for text in versions.split(",")}
    return VERSION if str(VERSION) in asked else 0
