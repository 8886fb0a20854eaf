"""Datagrams that two hosts of ours exchange beside VXLAN: packets of up to 64 KiB in chunks (docs/fleet.md).

A *train* carries one frame of a guest, which may be a super-segment. Nobody makes headers or checksums of
the segments that it stands for. The frame and, after it, its virtio-net header are cut into *chunks* of
equal length. Only the last one may be shorter. Each chunk is one datagram::

    0     1     2         4      7     8       12      16            18
    mark  kind  number    VNI    zero  train   total   chunk_len     bytes of the chunk
                of chunk               number  length

A *question* asks whether the host understands trains, and the *answer* repeats its nonce::

    0     1     2         4      7     8                            16
    mark  kind  zero      VNI    zero  nonce

The first 8 bytes lie as those of VXLAN (RFC 7348 section 5), but the I flag is not set. So every other
implementation of VXLAN drops these datagrams. The mark is a bit that VXLAN, its group policy and its
generic extension do not use. A guest cannot send such a datagram, since its frames have the header of VXLAN.

All numbers are big-endian. A new form of chunks needs new kinds of questions and of chunks.
"""

from struct import Struct
from typing import Final

from pipeline.wire import virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.vxlan import MAX_VNI, VNI_SHIFT

MARK: Final = 0x40
"""The first byte of each of these datagrams."""
QUESTION: Final = 1
ANSWER: Final = 2
CHUNK: Final = 3

CHUNK_HEADER: Final = Struct("!BBHIIIH")
"""Mark, kind, number of the chunk, VNI << 8, number of the train, total length, length of a chunk."""
HEADER_LEN: Final[int] = CHUNK_HEADER.size
NUMBER_OFF: Final = 2
TRAIN_OFF: Final = 8
"""Where the numbers that change from train to train begin: 4 bytes for its number, 4 for its length."""
MIN_CHUNK: Final = 64
"""The least length of all chunks but the last."""
MAX_CHUNK: Final = 32000
MIN_TOTAL: Final = virtio_net.LONG_LEN + 14
MAX_TOTAL: Final = virtio_net.LONG_LEN + 18 + 0xFFFF
"""The longest frame has a VLAN tag and an IP packet of 64 KiB."""

_CONTROL: Final = Struct("!BBHIQ")
CONTROL_LEN: Final[int] = _CONTROL.size
MALFORMED: Final = "vxlan_datagram_dropped_malformed"


def build_control(kind: int, vni: int, nonce: int) -> bytes:
    """A QUESTION or an ANSWER. Raises ValueError for a number that no network can have."""
    if not 0 <= vni <= MAX_VNI:
        raise ValueError(f"no VNI is {vni}")
    return _CONTROL.pack(MARK, kind, 0, vni << VNI_SHIFT, nonce)


def parse_control(datagram: bytes | memoryview, vni: int) -> tuple[int, int]:
    """(kind, nonce) of a QUESTION or an ANSWER of this network. Raises WireError for anything else."""
    if len(datagram) != CONTROL_LEN:
        raise WireError(MALFORMED)
    mark, kind, zero, network, nonce = _CONTROL.unpack_from(datagram)
    if mark != MARK or kind not in (QUESTION, ANSWER) or zero or network != vni << VNI_SHIFT:
        raise WireError(MALFORMED)
    return kind, nonce


def chunks_of(total: int, chunk_len: int) -> int:
    """How many chunks a train has."""
    return -(-total // chunk_len)
