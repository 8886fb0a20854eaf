"""How frames lie in a byte stream: length prefixes, and what is said before the first frame.

Three stream forms (all of them carry whole Ethernet frames without check sequence):

- ``QEMU``: 4-byte big-endian length (``-netdev stream`` and ``-netdev socket``);
- ``LE16``: 2-byte little-endian length (``/connect``, stdio, vpnkit and hyperkit);
- the fixed records which a vpnkit client and its server exchange before LE16 frames.

Datagram links need nothing of this: one datagram is one frame. Runts are not judged here;
who reads the Ethernet header drops and counts them.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire.errors import WireError

MAX_FRAME: Final = 131072
"""Longest frame a peer may announce, bytes; more means that the stream is lost."""


class LengthError(WireError):
    """A length that no frame may have: what follows it in a stream cannot be told any more."""

    def __init__(self, length: int) -> None:
        super().__init__("link_frame_dropped_oversized")
        self.length = length


class Framing(NamedTuple):
    """A length prefix: its Struct, its size in bytes, and the largest length it may announce."""

    prefix: Struct
    prefix_len: int
    max: int


QEMU: Final = Framing(Struct("!I"), 4, MAX_FRAME)
LE16: Final = Framing(Struct("<H"), 2, 0xFFFF)


def split(
    view: memoryview | bytes, begin: int, end: int, framing: Framing
) -> tuple[list[tuple[int, int]], int]:
    """Find the whole frames in view[begin:end].

    Returns ([(off, len)], next_begin): off is that of the Ethernet header, behind the
    prefix; next_begin is where the first partial frame (or nothing) starts. Raises
    LengthError when a length is above the framing's limit: the stream is of no use then.
    """
    frames: list[tuple[int, int]] = []
    append = frames.append
    prefix, prefix_len, max_frame = framing
    unpack = prefix.unpack_from
    last_prefix = end - prefix_len
    while begin <= last_prefix:
        (length,) = unpack(view, begin)
        off = begin + prefix_len
        after = off + length
        if length > max_frame:
            raise LengthError(length)
        if after > end:
            break
        append((off, length))
        begin = after
    return frames, begin


def need(view: memoryview | bytes, begin: int, end: int, framing: Framing) -> int:
    """How many bytes the partial frame at view[begin:end] still wants; 0 when nothing is there.

    While its prefix is incomplete that is the rest of the prefix. Raises LengthError as split().
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
    """The prefix of a frame of that many bytes. Raises LengthError when the framing cannot say it."""
    if length > framing.max:
        raise LengthError(length)
    return framing.prefix.pack(length)


# --- /connect -----------------------------------------------------------------------

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def connect_request(
    path: str = "/connect", host: str = "", headers: Mapping[str, str] | None = None
) -> bytes:
    """The request head that turns an HTTP connection into a stream of LE16 frames.

    The server of this protocol answers nothing: frames follow at once in both directions.
    host may be empty but the field must be there. Raises ValueError for text that would
    break out of its line.
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
"""``VMN3T``, u32 version, 40 bytes of commit text. The server sends them back unchanged."""
VPNKIT_COMMAND_LEN: Final = 41
"""A command byte, 36 characters of UUID, 4 bytes nobody reads."""
VPNKIT_REPLY_LEN: Final = 258

_HELLO: Final = Struct("<5sI40s")
_COMMAND: Final = Struct("<B36s4x")
_REPLY: Final = Struct("<BHH6s247x")
_VPNKIT_ETHERNET: Final = 1
_VPNKIT_HEADROOM: Final = 14


def vpnkit_hello(version: int = 22, commit: bytes = b"") -> bytes:
    """The 49 bytes a client opens with."""
    return _HELLO.pack(VPNKIT_MAGIC, version, commit)


def vpnkit_command(uuid: str) -> bytes:
    """The 41 bytes in which a client asks for an Ethernet connection of that UUID."""
    return _COMMAND.pack(_VPNKIT_ETHERNET, uuid.encode("ascii"))


def parse_vpnkit_hello(view: memoryview | bytes) -> bytes:
    """The answer to a client's hello, which is the hello itself. Raises WireError without the magic."""
    if len(view) < VPNKIT_HELLO_LEN or bytes(view[: len(VPNKIT_MAGIC)]) != VPNKIT_MAGIC:
        raise WireError("link_handshake_failed")
    return bytes(view[:VPNKIT_HELLO_LEN])


def parse_vpnkit_command(view: memoryview | bytes) -> str:
    """The UUID text of a client's command, as sent. Raises WireError for another command or not ASCII."""
    if len(view) < VPNKIT_COMMAND_LEN:
        raise WireError("link_handshake_failed")
    command, uuid = _COMMAND.unpack_from(view)
    if command != _VPNKIT_ETHERNET or not uuid.isascii():
        raise WireError("link_handshake_failed")
    return str(uuid.decode("ascii"))


def vpnkit_reply(mtu: int, mac: bytes) -> bytes:
    """The 258 bytes that tell a vpnkit client its MTU, largest frame and MAC address."""
    return _REPLY.pack(1, mtu, mtu + _VPNKIT_HEADROOM, mac)
