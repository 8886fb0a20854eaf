"""Virtio-net headers that a machine monitor passes on: the option of a link's URL, and packets with a header.

libkrun strips the header from its guest's frames, unless NET_FLAG_INCLUDE_VNET_HEADER is set. Then the header
(12 bytes, pipeline.wire.virtio_net) stands before each frame in both directions. The two ends agree on
nothing, so the URL of the socket says what the guest takes:

::

    unixgram:///path?vnet             checksums and segments of TCP over both families
    unix:///path?vnet=csum,tso4       words of WORDS. tso4 and tso6 need csum
    fd://3?vnet=none                  whole frames with whole checksums, after headers of zeros

The guest may leave everything to us that pipeline.engines.offload.vnet knows. On a stream, the length before
a frame counts its header.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from pipeline.wire import offload

OPTION: Final = "vnet"
NONE: Final = "none"
WORDS: Final = {"csum": offload.CSUM, "tso4": offload.TSO4, "tso6": offload.TSO6}
"""What a guest may take from us. It never gets super-segments of datagrams."""
ALL: Final = offload.CSUM | offload.TSO4 | offload.TSO6
ALLOWED: Final = f"{OPTION}, or {OPTION}= and some of {', '.join(WORDS)} with commas between them, or {NONE}"

_TSO: Final = offload.TSO4 | offload.TSO6
_UNPACK: Final = offload.FRAMING.prefix.unpack_from
_PREFIX_LEN: Final = offload.FRAMING.prefix_len


def guest_features(url: str) -> int | None:
    """What the guest on this URL takes (pipeline.wire.offload). None: its frames have no header.

    Raises ValueError for options that do not exist. The text names the option and what is allowed.
    """
    query = urlsplit(url).query
    if not query:
        return None
    name, equals, value = query.partition("=")
    if name != OPTION:
        raise ValueError(f"unknown option {query!r} (allowed: {ALLOWED})")
    if not equals:
        return ALL
    if value == NONE:
        return 0
    features = 0
    for word in value.split(","):
        if word not in WORDS:
            raise ValueError(f"option {OPTION}: unknown word {word!r} (allowed: {ALLOWED})")
        features |= WORDS[word]
    if features & _TSO and not features & offload.CSUM:
        raise ValueError(f"option {OPTION}: tso4 and tso6 need csum")
    return features


def packets(buffers: Sequence[bytes | memoryview]) -> list[list[bytes | memoryview]]:
    """The packets in buffers with the framing of a packet link (offload.FRAMING), each in one or more parts.

    A packet begins with its virtio-net header. The prefix of a packet lies in one buffer.
    """
    found: list[list[bytes | memoryview]] = []
    parts: list[bytes | memoryview] = []
    missing = 0
    for buffer in buffers:
        begin, end = 0, len(buffer)
        while begin < end:
            if not missing:
                missing = int(_UNPACK(buffer, begin)[0])
                begin += _PREFIX_LEN
                parts = []
                found.append(parts)
            stop = min(begin + missing, end)
            parts.append(buffer if stop - begin == end else buffer[begin:stop])
            missing -= stop - begin
            begin = stop
    return found


def framed(frame: bytes) -> bytes:
    """A frame that leaves nothing to the guest, as send() of a packet link with headers takes it."""
    return offload.FRAMING.prefix.pack(offload.VNET_LEN + len(frame)) + bytes(offload.VNET_LEN) + frame
