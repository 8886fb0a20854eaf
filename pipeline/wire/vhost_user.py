"""vhost-user messages: how a monitor gives a virtio device to another process (the vhost-user specification).

The *frontend* (the monitor of a virtual machine) sends requests over a unix socket, some with descriptors.
The *backend* (this program) answers some of them. Numbers are in the byte order of the host. Frontend and
backend run on one host, and this module knows little-endian hosts only.

::

    0         4       8      12
    request   flags   size   payload, size bytes

A *user address* is an address in the frontend's own memory. Rings are at user addresses. Descriptors of the
guest hold *guest addresses*. A region says where both lie in a file.
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire.errors import WireError

HEADER: Final = Struct("<III")
HEADER_LEN: Final[int] = HEADER.size
MAX_PAYLOAD: Final = 4096
"""Bytes of the longest payload that a frontend may send. The longest one of the specification has 540."""

VERSION: Final = 1
VERSION_MASK: Final = 3
REPLY: Final = 4
NEED_REPLY: Final = 8

GET_FEATURES: Final = 1
SET_FEATURES: Final = 2
SET_OWNER: Final = 3
RESET_OWNER: Final = 4
SET_MEM_TABLE: Final = 5
SET_VRING_NUM: Final = 8
SET_VRING_ADDR: Final = 9
SET_VRING_BASE: Final = 10
GET_VRING_BASE: Final = 11
SET_VRING_KICK: Final = 12
SET_VRING_CALL: Final = 13
SET_VRING_ERR: Final = 14
GET_PROTOCOL_FEATURES: Final = 15
SET_PROTOCOL_FEATURES: Final = 16
GET_QUEUE_NUM: Final = 17
SET_VRING_ENABLE: Final = 18
SEND_RARP: Final = 19
NET_SET_MTU: Final = 20
GET_CONFIG: Final = 24
SET_CONFIG: Final = 25
GET_INFLIGHT_FD: Final = 31
SET_INFLIGHT_FD: Final = 32
RESET_DEVICE: Final = 34
GET_MAX_MEM_SLOTS: Final = 36
ADD_MEM_REG: Final = 37
REM_MEM_REG: Final = 38

F_MQ: Final = 1 << 0
F_REPLY_ACK: Final = 1 << 3
F_NET_MTU: Final = 1 << 4
F_CONFIG: Final = 1 << 9
F_INFLIGHT_SHMFD: Final = 1 << 12
F_RESET_DEVICE: Final = 1 << 13
F_CONFIGURE_MEM_SLOTS: Final = 1 << 15
"""Protocol features."""

NO_FD: Final = 0x100
"""In the number of SET_VRING_KICK and its like: no descriptor comes with the message."""
INDEX_MASK: Final = 0xFF
MAX_TABLE_REGIONS: Final = 8
"""Regions in SET_MEM_TABLE, and descriptors in any message."""

U64: Final = Struct("<Q")
VRING_STATE: Final = Struct("<II")
VRING_ADDR: Final = Struct("<IIQQQQ")
INFLIGHT: Final = Struct("<QQHH")
CONFIG: Final = Struct("<III")

_TABLE: Final = Struct("<II")
_REGION: Final = Struct("<QQQQ")
_ONE_REGION_LEN: Final[int] = 8 + _REGION.size
_END: Final = 1 << 64


class Header(NamedTuple):
    """The first 12 bytes of a message."""

    request: int
    flags: int
    size: int


class Region(NamedTuple):
    """A piece of guest memory, and where it lies in its file. All in bytes."""

    guest_addr: int
    size: int
    user_addr: int
    file_off: int


class RingAddresses(NamedTuple):
    """SET_VRING_ADDR: the number of a ring, and the user addresses of its three areas."""

    ring: int
    flags: int
    table: int
    used: int
    avail: int
    log: int


class Inflight(NamedTuple):
    """The file for descriptors in flight: its part that is used, and the queues that it describes."""

    size: int
    offset: int
    queues: int
    queue_size: int


def parse_header(data: bytes) -> Header:
    """The header of a message. Raises WireError for another version, a reply, or a payload too long."""
    header = Header(*HEADER.unpack(data))
    if header.flags & VERSION_MASK != VERSION or header.flags & REPLY or header.size > MAX_PAYLOAD:
        raise WireError("link_handshake_failed")
    return header


def build(request: int, payload: bytes = b"", flags: int = VERSION) -> bytes:
    """A whole message."""
    return HEADER.pack(request, flags, len(payload)) + payload


def reply(request: int, payload: bytes) -> bytes:
    """The backend's answer to a request."""
    return build(request, payload, VERSION | REPLY)


def parse_u64(payload: bytes) -> int:
    """A payload of one number. Raises WireError for another length."""
    return int(_unpack(U64, payload)[0])


def parse_vring_state(payload: bytes) -> tuple[int, int]:
    """The index of a ring and a number. Raises WireError for another length."""
    index, number = _unpack(VRING_STATE, payload)
    return int(index), int(number)


def parse_vring_addr(payload: bytes) -> RingAddresses:
    """The payload of SET_VRING_ADDR. Raises WireError for another length."""
    return RingAddresses(*_unpack(VRING_ADDR, payload))


def parse_memory_table(payload: bytes) -> tuple[Region, ...]:
    """The regions of SET_MEM_TABLE. Raises WireError if one is impossible, or if there are too many."""
    if len(payload) < _TABLE.size:
        raise WireError("link_handshake_failed")
    count = _TABLE.unpack_from(payload)[0]
    if not 0 < count <= MAX_TABLE_REGIONS or len(payload) < _TABLE.size + count * _REGION.size:
        raise WireError("link_handshake_failed")
    ends = range(_TABLE.size, _TABLE.size + count * _REGION.size, _REGION.size)
    return tuple(_checked(Region(*_REGION.unpack_from(payload, at))) for at in ends)


def parse_region(payload: bytes) -> Region:
    """The region of ADD_MEM_REG or REM_MEM_REG. Raises WireError if it is impossible."""
    if len(payload) < _ONE_REGION_LEN:
        raise WireError("link_handshake_failed")
    return _checked(Region(*_REGION.unpack_from(payload, _ONE_REGION_LEN - _REGION.size)))


def build_memory_table(regions: tuple[Region, ...]) -> bytes:
    """The payload of SET_MEM_TABLE."""
    return _TABLE.pack(len(regions), 0) + b"".join(_REGION.pack(*region) for region in regions)


def build_region(region: Region) -> bytes:
    """The payload of ADD_MEM_REG and REM_MEM_REG."""
    return bytes(8) + _REGION.pack(*region)


def parse_inflight(payload: bytes) -> Inflight:
    """The payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD. Raises WireError for another length."""
    return Inflight(*_unpack(INFLIGHT, payload))


def _unpack(form: Struct, payload: bytes) -> tuple[int, ...]:
    # Some frontends pad a payload.
    if len(payload) < form.size:
        raise WireError("link_handshake_failed")
    return form.unpack_from(payload)


def _checked(region: Region) -> Region:
    """The region. Raises WireError if it is empty, or if one of its ends is beyond 64 bits."""
    if not region.size or max(region.guest_addr, region.user_addr, region.file_off) + region.size > _END:
        raise WireError("link_handshake_failed")
    return region
