"""How Ethernet frames are delimited in a byte stream, and the handshakes before the first frame.

Each frame follows its length. Frames are whole, without check sequence. There are two length prefixes:

- ``QEMU``: 4 bytes, big-endian (``-netdev stream`` and ``-netdev socket``);
- ``LE16``: 2 bytes, little-endian (``/connect``, stdio, vpnkit and hyperkit).

A vpnkit client and its server exchange records of fixed length before the first LE16 frame.

Datagram links do not need this module: one datagram is one frame. This module accepts runts. The reader of
the Ethernet header drops and counts them.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire.errors import WireError

EVERY_FRAME: Final = 1 << 30
"""A number of frames that is never reached."""
MAX_FRAME: Final = 131072
"""Bytes of the longest frame that a peer may announce. After a larger number the link is closed."""


class LengthError(WireError):
    """A length that no frame may have. The remaining stream cannot be parsed."""

    def __init__(self, length: int) -> None:
        super().__init__("link_frame_dropped_oversized")
        self.length = length


class Framing(NamedTuple):
    """A length prefix: its Struct, its size in bytes, and the largest length that it may announce."""

    prefix: Struct
    prefix_len: int
    max: int


_LONG: Final = Struct("!I")
_SHORT: Final = Struct("<H")
QEMU: Final = Framing(_LONG, 4, MAX_FRAME)
LE16: Final = Framing(_SHORT, 2, 0xFFFF)


def split(
    view: memoryview | bytes, begin: int, end: int, framing: Framing, most: int = EVERY_FRAME
) -> tuple[list[tuple[int, int]], int]:
    """Find the whole frames in view[begin:end], the first ``most`` of them.

    Returns ([(off, len)], next_begin). off: of the Ethernet header, after the prefix. next_begin: where the
    next frame begins, whole or partial, or end. Raises LengthError when a length is above the framing's
    limit.
    """
    frames: list[tuple[int, int]] = []
    prefix = framing.prefix
    prefix_len: int = framing.prefix_len
    max_frame: int = framing.max
    last_prefix = end - prefix_len
    while begin <= last_prefix and most > 0:
        # Compiled code knows these two. It would look a method of another one up.
        if prefix is _SHORT:
            (length,) = _SHORT.unpack_from(view, begin)
        elif prefix is _LONG:
            (length,) = _LONG.unpack_from(view, begin)
        else:
            (length,) = prefix.unpack_from(view, begin)
        off = begin + prefix_len
        after = off + length
        if length > max_frame:
            raise LengthError(length)
        if after > end:
            break
        frames.append((off, length))
        begin = after
        most -= 1
    return frames, begin


def need(view: memoryview | bytes, begin: int, end: int, framing: Framing) -> int:
    """How many bytes of the partial frame at view[begin:end] are missing; 0 when there is no frame.

    While the prefix is incomplete, the result counts the prefix alone. Raises LengthError like split().
    """
    have = end - begin
    if have <= 0:
        return 0
    if have < framing.prefix_len:
        return framing.prefix_len - have
    (length,) = framing.prefix.unpack_from(view, begin)
    if length > framing.max:
        raise LengthError(length)
    return max(0, framing.prefix_len + int(length) - have)


def prefix(length: int, framing: Framing) -> bytes:
    """The prefix of a frame of length bytes. Raises LengthError when length is above the framing's limit."""
    if length > framing.max:
        raise LengthError(length)
    return framing.prefix.pack(length)


# --- /connect -----------------------------------------------------------------------

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def connect_request(
    path: str = "/connect", host: str = "", headers: Mapping[str, str] | None = None
) -> bytes:
    """The request head that turns an HTTP connection into a stream of LE16 frames.

    The server sends no response: frames follow at once in both directions. host may be empty, but the field
    must exist. Raises ValueError for text that would end its line.
    """
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}"]
    for name, value in (headers or {}).items():
        if not name or not _TOKEN.issuperset(name):
            raise ValueError(f"invalid header name: {name!r}")
        lines.append(f"{name}: {value}")
    lines.append("Content-Length: 0")
    if not path.startswith("/") or " " in path or any("\r" in line or "\n" in line for line in lines):
        raise ValueError(f"invalid request: {lines!r}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


# --- vpnkit and hyperkit ------------------------------------------------------------

VPNKIT_MAGIC: Final = b"VMN3T"
VPNKIT_HELLO_LEN: Final = 49
"""``VMN3T``, u32 version, 40 bytes of commit text. The server sends the hello back unchanged."""
VPNKIT_COMMAND_LEN: Final = 41
"""A command byte, 36 characters of UUID, 4 unused bytes."""
VPNKIT_REPLY_LEN: Final = 258

_HELLO: Final = Struct("<5sI40s")
_COMMAND: Final = Struct("<B36s4x")
_REPLY: Final = Struct("<BHH6s247x")
_VPNKIT_ETHERNET: Final = 1
_VPNKIT_HEADROOM: Final = 14


def vpnkit_hello(version: int = 22, commit: bytes = b"") -> bytes:
    """The 49 bytes that a client sends first."""
    return _HELLO.pack(VPNKIT_MAGIC, version, commit)


def vpnkit_command(uuid: str) -> bytes:
    """The 41 bytes with which a client asks for an Ethernet connection with that UUID."""
    return _COMMAND.pack(_VPNKIT_ETHERNET, uuid.encode("ascii"))


def parse_vpnkit_hello(view: memoryview | bytes) -> bytes:
    """The answer to a client's hello, which is the hello itself. Raises WireError without the magic."""
    if len(view) < VPNKIT_HELLO_LEN or bytes(view[: len(VPNKIT_MAGIC)]) != VPNKIT_MAGIC:
        raise WireError("link_handshake_failed")
    return bytes(view[:VPNKIT_HELLO_LEN])


def parse_vpnkit_command(view: memoryview | bytes) -> str:
    """The UUID text of a client's command. Raises WireError for another command, or if it is not ASCII."""
    if len(view) < VPNKIT_COMMAND_LEN:
        raise WireError("link_handshake_failed")
    command, uuid = _COMMAND.unpack_from(view)
    if command != _VPNKIT_ETHERNET or not uuid.isascii():
        raise WireError("link_handshake_failed")
    return str(uuid.decode("ascii"))


def vpnkit_reply(mtu: int, mac: bytes) -> bytes:
    """The 258 bytes that tell a vpnkit client its MTU, largest frame and MAC address."""
    return _REPLY.pack(1, mtu, mtu + _VPNKIT_HEADROOM, mac)
