"""The offload extension of ``/connect``: what agent and host say before frames have a virtio-net header.

docs/offload.md tells the whole story. The agent asks with a header line of its request; a
host that knows the extension answers with a record, the agent takes it with a record, and
the host starts with a record: each is the last thing in the old form of its direction. A
record lies in the stream like a frame (2-byte little-endian length), but is shorter than any
Ethernet frame can be, so whoever does not expect one drops it as a runt.

::

    0       4     5        6         7         8          12
    "GVTO"  kind  version  vnet_len  reserved  features

Behind it, frames have ``FRAMING``: a 4-byte little-endian length that counts a virtio-net
header (12 bytes, pipeline.wire.virtio_net) and the Ethernet frame. No IO and no state here.
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import virtio_net
from pipeline.wire.framing import LE16, Framing

REQUEST_HEADER: Final = "Gvtap-Offload"
"""Its value lists the versions that the agent speaks, separated by commas."""
VERSION: Final = 1
VNET_LEN: Final[int] = virtio_net.LONG_LEN
MAX_ETHERNET_HEADER: Final = 18
"""With a VLAN tag."""
FRAMING: Final = Framing(Struct("<I"), 4, VNET_LEN + MAX_ETHERNET_HEADER + 0xFFFF)

CSUM: Final = 0x01
TSO4: Final = 0x02
TSO6: Final = 0x04
USO4: Final = 0x20
USO6: Final = 0x40
"""Features: what the agent may leave undone in frames for the host. The numbers are Linux's TUN_F_*."""
FEATURES: Final = CSUM | TSO4 | TSO6 | USO4 | USO6

OFFER: Final = 1
"""Host to agent, its first record: version and features that it takes."""
ACCEPT: Final = 2
"""Agent to host, its first record: version and features that it will use. All behind is in the new form."""
START: Final = 3
"""Host to agent, the answer to ACCEPT: all behind is in the new form."""

_RECORD: Final = Struct("<4sBBBxI")
_MAGIC: Final = b"GVTO"
RECORD_LEN: Final = _RECORD.size


class Record(NamedTuple):
    """One of the three."""

    kind: int
    version: int
    vnet_len: int
    features: int


def build(kind: int, features: int, version: int = VERSION, vnet_len: int = VNET_LEN) -> bytes:
    """A record with its length prefix, as it lies in the stream."""
    return LE16.prefix.pack(RECORD_LEN) + _RECORD.pack(_MAGIC, kind, version, vnet_len, features)


def parse(view: memoryview | bytes, off: int, length: int) -> Record | None:
    """The record at view[off:off+length] (behind its prefix); None for anything else."""
    if length != RECORD_LEN or off + length > len(view):
        return None
    magic, *fields = _RECORD.unpack_from(view, off)
    return Record(*fields) if magic == _MAGIC else None


def choose(versions: str) -> int:
    """The version to speak with an agent whose request header has this value; 0 for none.

    What is not a number, and anything behind a semicolon, is for the future and passed over.
    """
    asked = {text.partition(";")[0].strip() for text in versions.split(",")}
    return VERSION if str(VERSION) in asked else 0
