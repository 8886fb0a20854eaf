"""The parts of a QUIC Initial packet that need no keys, and the frames in it (RFC 9000, RFC 9369).

pipeline.engines.stated.quic decrypts it.
"""

from typing import Final, NamedTuple

VERSION_1: Final = 1
VERSION_2: Final = 0x6B3343CF
SAMPLE_LEN: Final = 16
MAX_PN_LEN: Final = 4
TAG_LEN: Final = 16

_LONG: Final = 0xC0
"""The bits of a long header and of the fixed bit, which are both set."""
_TYPE: Final = 0x30
_INITIAL: Final = {VERSION_1: 0x00, VERSION_2: 0x10}
_RETRY: Final = {VERSION_1: 0x30, VERSION_2: 0x00}
_MAX_ID: Final = 20
_PADDING: Final = 0x00
_PING: Final = 0x01
_ACK: Final = 0x02
_ACK_ECN: Final = 0x03
_CRYPTO: Final = 0x06
_CLOSE: Final = 0x1C


class Packet(NamedTuple):
    """A long-header packet in a datagram. ``pn_at``: where its packet number is, which is protected.

    ``end``: where the packet ends. ``dcid``: the destination connection id.
    """

    version: int
    initial: bool
    dcid: bytes
    pn_at: int
    end: int


class Crypto(NamedTuple):
    """Bytes of the handshake, which begin at this offset of it."""

    offset: int
    data: bytes


def packet_at(data: bytes, at: int) -> Packet | None:
    """The packet of a client that begins there; None if it is none of a version that this module knows."""
    if at + 7 > len(data) or data[at] & _LONG != _LONG:
        return None
    version = int.from_bytes(data[at + 1 : at + 5], "big")
    if version not in _INITIAL:
        return None
    kind = data[at] & _TYPE
    dcid_at = at + 6
    dcid_end = dcid_at + data[at + 5]
    if data[at + 5] > _MAX_ID or dcid_end >= len(data) or data[dcid_end] > _MAX_ID:
        return None
    place = dcid_end + 1 + data[dcid_end]
    if kind == _RETRY[version]:
        return None
    initial = kind == _INITIAL[version]
    if initial:
        token_len, place = varint(data, place)
        place += token_len
    length, place = varint(data, place)
    end = place + length
    if length < MAX_PN_LEN + SAMPLE_LEN or end > len(data):
        return None
    return Packet(version, initial, data[dcid_at:dcid_end], place, end)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at`` (RFC 9000 section 16), and where it ends. Beyond the data there are zeros."""
    if at >= len(data):
        return 0, len(data) + 1
    size = 1 << (data[at] >> 6)
    value = int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1)
    return value, at + size


def crypto_frames(data: bytes) -> list[Crypto] | None:
    """The CRYPTO frames in the payload of an Initial packet; None if it has frames that it may not have."""
    found: list[Crypto] = []
    at = 0
    while at < len(data):
        kind = data[at]
        at += 1
        if kind == _CRYPTO:
            offset, at = varint(data, at)
            length, at = varint(data, at)
            if at + length > len(data):
                return None
            found.append(Crypto(offset, data[at : at + length]))
            at += length
        elif kind in (_ACK, _ACK_ECN):
            at = _after_ack(data, at, has_ecn=kind == _ACK_ECN)
        elif kind == _CLOSE:
            break
        elif kind not in (_PADDING, _PING):
            return None
    return found if at <= len(data) else None


def _after_ack(data: bytes, at: int, *, has_ecn: bool) -> int:
    """Where an ACK frame ends (RFC 9000 section 19.3)."""
    _, at = varint(data, at)
    _, at = varint(data, at)
    ranges, at = varint(data, at)
    numbers = 1 + 2 * ranges + (3 if has_ecn else 0)
    while numbers > 0 and at < len(data):
        _, at = varint(data, at)
        numbers -= 1
    return at
