"""The agent's side of the offload extension (docs/offload.md): negotiation with the host, set-up of the tap.

The request for /connect has HEADERS. A host that knows the extension answers with a record before any frame.
gvproxy sends nothing, or a frame. So the agent waits up to OFFER_SECONDS before it sends its first frame. It
keeps the bytes that it reads meanwhile. But it drops frames between the host's OFFER and START, because the
tap does not exist yet.
"""

import errno
import logging
import os
import select
import time
from typing import Final, NamedTuple

from guest.link import Link, LinkError
from pipeline.system.tap import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, Tap
from pipeline.system.tap import offload as leave_work
from pipeline.wire import offload
from pipeline.wire.framing import LE16, Framing

LOG: Final = logging.getLogger("gvtap-guest")

HEADERS: Final = {offload.REQUEST_HEADER: str(offload.VERSION)}
OFFER_SECONDS: Final = 0.5
"""Seconds that the agent waits for an OFFER of the host. gvproxy does not send one."""
START_SECONDS: Final = 5.0
"""Seconds between ACCEPT and START that the host may take."""

_READ_BYTES: Final = 64 * 1024
_UNKNOWN: Final = frozenset({errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of a kernel that does not know a request."""
_RECORD_END: Final = LE16.prefix_len + offload.RECORD_LEN


class RefusedError(Exception):
    """The guest's kernel cannot offload. The network works without it."""


class Terms(NamedTuple):
    """What agent and host agreed on.

    vnet_len: 0 without offload. features: those that the host takes (pipeline.wire.offload). head: bytes that
    were already read from the stream.
    """

    framing: Framing
    vnet_len: int
    features: int
    head: bytes


PLAIN: Final = Terms(LE16, 0, 0, b"")


def negotiate(link: Link, offer_seconds: float = OFFER_SECONDS) -> Terms:
    """Find out whether the host offloads. The request on link must have had HEADERS.

    Blocks for at most offer_seconds if the host does not. Raises LinkError if the host hangs up, or does not
    send START.
    """
    data = bytearray()
    if not _fill(link, data, _RECORD_END, time.monotonic() + offer_seconds):
        return PLAIN._replace(head=bytes(data))
    record = _record(data)
    if record is None or record.kind != offload.OFFER:
        return PLAIN._replace(head=bytes(data))
    if record.version != offload.VERSION or record.vnet_len != offload.VNET_LEN:
        # Without an ACCEPT the link stays as it is.
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
    """Read until data has length bytes or more. Returns False if they do not come in time."""
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
    """The offset at which the first frame or record of data ends."""
    return LE16.prefix_len + int.from_bytes(data[: LE16.prefix_len], "little")


def _record(data: bytearray) -> offload.Record | None:
    """The record at the start of data; None if there is a frame."""
    return offload.parse(bytes(data[:_RECORD_END]), LE16.prefix_len, _end(data) - LE16.prefix_len)


def open_tap(name: str, terms: Terms) -> Tap:
    """Open the tap for these terms. Raises RefusedError, or what Tap.open() raises."""
    if not terms.vnet_len:
        return Tap.open(name)
    try:
        tap = Tap.open(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        try:
            leave_work(tap.fd, terms.features)
        except OSError:
            tap.close()
            raise
    except OSError as error:
        if error.errno in _UNKNOWN:
            raise RefusedError(f"the kernel refuses to offload: {error}") from error
        raise
    return tap
