"""The agent's half of the offload extension: it asks for it, and sets the tap up.

docs/offload.md describes the extension. The request for /connect carries HEADERS. A host that knows the
extension answers with a record before any frame. gvproxy is silent, or begins with a frame. So the agent
waits a moment before it sends its first frame. It keeps the bytes that it reads in the meantime, except
frames between the host's OFFER and START: there is no interface for them yet.

Linux only: TUNSETVNETHDRSZ and TUNSETOFFLOAD of linux/if_tun.h.
"""

import errno
import fcntl
import logging
import os
import select
import sys
import time
from contextlib import suppress
from struct import Struct
from typing import Final, NamedTuple

from guest.link import Link, LinkError
from guest.tap import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, Tap
from pipeline.wire import offload
from pipeline.wire.framing import LE16, Framing

LOG: Final = logging.getLogger("gvtap-guest")

HEADERS: Final = {offload.REQUEST_HEADER: str(offload.VERSION)}
OFFER_SECONDS: Final = 0.5
"""How long the agent waits for the host's first record. gvproxy sends none."""
START_SECONDS: Final = 5.0
"""How long a host that has offered may take to start."""

TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_INT: Final = Struct("i")
_USO: Final = offload.USO4 | offload.USO6
_READ_BYTES: Final = 64 * 1024
_UNKNOWN: Final = frozenset({errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of a kernel that does not know a request."""
_RECORD_END: Final = LE16.prefix_len + offload.RECORD_LEN


class RefusedError(Exception):
    """The kernel cannot do this guest's half. The network works without offload."""


class Terms(NamedTuple):
    """What agent and host agreed on. head: bytes of the stream that were read already.

    vnet_len is 0 without offload; features are the host's (pipeline.wire.offload).
    """

    framing: Framing
    vnet_len: int
    features: int
    head: bytes


PLAIN: Final = Terms(LE16, 0, 0, b"")


def negotiate(link: Link, offer_seconds: float = OFFER_SECONDS) -> Terms:
    """Find out whether the host on link, which was asked with HEADERS, offloads.

    Blocks for offer_seconds at most if it does not. Raises LinkError when the host hangs up, or
    stops in the middle.
    """
    data = bytearray()
    if not _fill(link, data, _RECORD_END, time.monotonic() + offer_seconds):
        return PLAIN._replace(head=bytes(data))
    record = _record(data)
    if record is None or record.kind != offload.OFFER:
        return PLAIN._replace(head=bytes(data))
    if record.version != offload.VERSION or record.vnet_len != offload.VNET_LEN:
        # An offer that the agent does not accept is void.
        LOG.warning("the host offers what was not asked for: %s", record)
        return PLAIN._replace(head=bytes(data))
    features = record.features & offload.FEATURES
    accept = offload.build(offload.ACCEPT, features)
    if os.write(link.write_fd, accept) != len(accept):
        raise LinkError("the host does not read")
    deadline = time.monotonic() + START_SECONDS
    while record.kind != offload.START:
        del data[: _end(data)]
        if not (_fill(link, data, LE16.prefix_len, deadline) and _fill(link, data, _end(data), deadline)):
            raise LinkError("the host offered to offload and did not start")
        record = _record(data) or record
    del data[: _end(data)]
    LOG.info("the host offloads, features %#x", features)
    return Terms(offload.FRAMING, offload.VNET_LEN, features, bytes(data))


def _fill(link: Link, data: bytearray, length: int, deadline: float) -> bool:
    """Read until data has length bytes or more. Returns False when they do not come in time."""
    poller = select.poll()
    poller.register(link.read_fd, select.POLLIN)
    while len(data) < length:
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            return False
        piece = os.read(link.read_fd, _READ_BYTES)
        if not piece:
            raise LinkError("the host closed the link")
        data += piece
    return True


def _end(data: bytearray) -> int:
    """Where the first frame or record of data ends."""
    return LE16.prefix_len + int.from_bytes(data[: LE16.prefix_len], "little")


def _record(data: bytearray) -> offload.Record | None:
    """The record that data begins with, None if it begins with a frame."""
    return offload.parse(bytes(data[:_RECORD_END]), LE16.prefix_len, _end(data) - LE16.prefix_len)


def open_tap(name: str, terms: Terms) -> Tap:
    """Open the tap for these terms. Raises like Tap.open(), or RefusedError."""
    if not terms.vnet_len:
        return Tap.open(name)
    try:
        tap = Tap.open(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        try:
            set_up(tap, terms.features)
        except OSError:
            tap.close()
            raise
    except OSError as error:
        if error.errno in _UNKNOWN:
            raise RefusedError(f"the kernel refuses to offload: {error}") from error
        raise
    return tap


def set_up(tap: Tap, features: int) -> int:
    """Let the kernel leave work to the host. Returns which of features the kernel has.

    For a tap opened with IFF_VNET_HDR. An old kernel has fewer features. Without any it still sends whole
    frames, after headers of zeros. Raises OSError if it has no headers of 12 bytes.
    """
    fcntl.ioctl(tap.fd, _TUNSETVNETHDRSZ, _INT.pack(offload.VNET_LEN))
    if sys.byteorder == "big":
        fcntl.ioctl(tap.fd, _TUNSETVNETLE, _INT.pack(1))
    basic = features & (offload.CSUM | offload.TSO4)
    for wanted in (features, features & ~_USO, basic, features & offload.CSUM):
        # The kernel has UDP for both families or for neither, and no feature at all without checksums.
        usable = wanted if wanted & _USO == _USO else wanted & ~_USO
        usable = usable if usable & offload.CSUM else 0
        try:
            fcntl.ioctl(tap.fd, TUNSETOFFLOAD, usable)
        except OSError:
            continue
        return usable
    fcntl.ioctl(tap.fd, TUNSETOFFLOAD, 0)
    return 0


def reset(tap: Tap) -> None:
    """Take the offload back, for the next program that opens a persistent tap."""
    with suppress(OSError):  # the interface may be deleted already
        fcntl.ioctl(tap.fd, TUNSETOFFLOAD, 0)
