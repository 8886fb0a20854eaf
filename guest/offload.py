"""The agent's half of the offload extension: asking for it, and the tap that does the work.

docs/offload.md has the whole story. The request for /connect carries HEADERS; a host that
knows the extension answers with a record before any frame, gvproxy says nothing at all or
begins with a frame. So the agent waits a moment before it sends its first frame. What
it reads in the meantime is kept, except frames between the host's OFFER and START: the
interface is not there yet, and a cable without an end loses frames.

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
"""How long the agent waits for a first sign of the host; gvproxy gives none."""
START_SECONDS: Final = 5.0
"""How long a host that has offered may take to start."""

TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_INT: Final = Struct("i")
_USO: Final = offload.USO4 | offload.USO6
_READ_BYTES: Final = 64 * 1024
_UNKNOWN: Final = frozenset({errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS})
"""What a kernel answers that does not know a request."""
_RECORD_END: Final = LE16.prefix_len + offload.RECORD_LEN


class RefusedError(Exception):
    """The kernel cannot do this guest's half; without offload the network works."""


class Terms(NamedTuple):
    """What agent and host speak. head: bytes of the stream that were read already.

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
        # An offer that is not taken is void.
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
    """Read until data has length bytes or more. False when that does not come in time."""
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
    """What data begins with, if that is a record."""
    return offload.parse(bytes(data[:_RECORD_END]), LE16.prefix_len, _end(data) - LE16.prefix_len)


def open_tap(name: str, terms: Terms) -> Tap:
    """Open the tap for what was negotiated. Raises as Tap.open() does, or RefusedError."""
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
    """Have the kernel leave to the host what it takes; what came of it (a part of features).

    For a tap opened with IFF_VNET_HDR. An old kernel has fewer features; without any it still
    sends whole frames behind headers of zeros. Raises OSError where headers of 12 bytes cannot be had.
    """
    fcntl.ioctl(tap.fd, _TUNSETVNETHDRSZ, _INT.pack(offload.VNET_LEN))
    if sys.byteorder == "big":
        fcntl.ioctl(tap.fd, _TUNSETVNETLE, _INT.pack(1))
    basic = features & (offload.CSUM | offload.TSO4)
    for wanted in (features, features & ~_USO, basic, features & offload.CSUM):
        # The kernel knows UDP for both or for neither, and nothing of all this without checksums.
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
    with suppress(OSError):  # who deletes the interface under us leaves nothing to take back
        fcntl.ioctl(tap.fd, TUNSETOFFLOAD, 0)
