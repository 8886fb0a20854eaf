"""Forwards Ethernet frames between the tap and the link, in one loop over non-blocking descriptors.

    tap  --one read for each frame, after its length prefix-->  buffer  --one write for many frames-->  link
    link --one read for many frames-->  buffer  --one write for each frame-->  tap

Frames are not copied within the buffer. Only the incomplete frame at the end of a read moves to the front. If
the link is full, the agent does not read the tap. The guest kernel's queue then slows its senders. While the
tap is down, the host's frames are lost.

A frame is what one read of the tap returns. With IFF_VNET_HDR it begins with a virtio-net header, which the
agent passes on unchanged. The framing object limits the length of a frame.
"""

import errno
import io
import logging
import select
from collections.abc import Callable
from typing import Final

from guest.link import Link, LinkError
from pipeline.system.tap import Tap
from pipeline.wire import framing as frames
from pipeline.wire.framing import Framing

LOG: Final = logging.getLogger("gvtap-guest")

BURST_BYTES: Final = 64 * 1024
READ_BYTES: Final = 256 * 1024
MIN_FRAME: Final = 14

# Errors of a write to the tap that cost only this frame.
_TAP_REFUSALS: Final = frozenset({errno.EIO, errno.EINVAL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})


class Forwarder:
    """Moves frames until the link or the tap ends. It owns neither."""

    def __init__(
        self,
        tap: Tap,
        link: Link,
        framing: Framing,
        max_frame: int,
        trace: bool = False,
        min_frame: int = MIN_FRAME,
        head: bytes = b"",
    ) -> None:
        """max_frame: room in bytes for a frame of the tap. Frames that the framing allows always fit.

        min_frame: shorter frames of the host are dropped. head: bytes already read from the link, at most
        64 KiB.
        """
        self.dropped_oversized = 0
        self.dropped_by_tap = 0
        self._tap_fd = tap.fd
        self._link = link
        self._framing = framing
        self._trace = trace
        self._min_frame = min_frame
        self._tap = io.FileIO(tap.fd, "r+b", closefd=False)
        self._reader = io.FileIO(link.read_fd, "rb", closefd=False)
        self._writer = io.FileIO(link.write_fd, "wb", closefd=False)
        self._room = max(max_frame, framing.max)
        self._out = memoryview(bytearray(BURST_BYTES + framing.prefix_len + self._room + 1))
        self._waiting = self._out[:0]  # bytes that the link has not taken yet
        self._in = memoryview(bytearray(READ_BYTES + framing.prefix_len + framing.max))
        self._in[: len(head)] = head
        self._filled = len(head)  # bytes at the front of _in that are not forwarded yet

    def run(self, watched: dict[int, Callable[[], None]]) -> None:
        """Forward for ever. watched: more descriptors to poll, with functions to call when they are readable.

        This ends only with an exception: LinkError if the host hangs up, OSError, WireError for an impossible
        length, or an exception of such a function. The functions may change the dict.
        """
        self._deliver(self._filled)
        tap_fd, read_fd, write_fd = self._tap_fd, self._link.read_fd, self._link.write_fd
        while True:
            poller = select.poll()
            wanted = {read_fd: select.POLLIN}
            if self._waiting:
                wanted[write_fd] = wanted.get(write_fd, 0) | select.POLLOUT
            else:
                wanted[tap_fd] = select.POLLIN
            for fd, mask in wanted.items() | dict.fromkeys(watched, select.POLLIN).items():
                poller.register(fd, mask)
            blocked, known = bool(self._waiting), list(watched)
            while blocked == bool(self._waiting) and known == list(watched):
                for fd, event in poller.poll():
                    if fd == read_fd and event & ~select.POLLOUT:
                        self._from_host()
                    if fd == write_fd and event & (select.POLLOUT | select.POLLERR):
                        self._flush()
                    elif fd == tap_fd:
                        self._from_guest()
                    elif fd in watched:
                        watched[fd]()
                        break  # the function may have replaced a descriptor by one of the same number

    def _from_guest(self) -> None:
        """Read frames from the tap until it is empty or a burst is full, then send them in one call."""
        framing, room, out, readinto = self._framing, self._room, self._out, self._tap.readinto
        pack_into, prefix, longest = framing.prefix.pack_into, framing.prefix_len, framing.max
        end = 0
        while end < BURST_BYTES:
            start = end + prefix
            length = readinto(out[start : start + room + 1])
            if not length:
                break
            if length > longest:
                # Such a frame occurs only if the MTU is larger than what the length prefix can express.
                self.dropped_oversized += 1
                continue
            pack_into(out, end, length)
            if self._trace:
                _trace("to host", out[start : start + length])
            end = start + length
        self._waiting = out[:end]
        self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._waiting = self._waiting[self._writer.write(self._waiting) or 0 :]

    def _from_host(self) -> None:
        """Read the link once, and write its complete frames to the tap."""
        length = self._reader.readinto(self._in[self._filled :])
        if length is None:
            return
        if length == 0:
            raise LinkError("the host closed the link")
        self._deliver(self._filled + length)

    def _deliver(self, end: int) -> None:
        """Write the complete frames in _in[:end] to the tap, and move the incomplete one to the front."""
        view, write = self._in, self._tap.write
        whole, rest = frames.split(view, 0, end, self._framing)
        for off, size in whole:
            if size < self._min_frame:
                continue
            if self._trace:
                _trace("from host", view[off : off + size])
            try:
                write(view[off : off + size])
            except OSError as error:
                if error.errno not in _TAP_REFUSALS:
                    raise
                self.dropped_by_tap += 1
        self._filled = end - rest
        if self._filled and rest:
            view[: self._filled] = view[rest:end]


def _trace(direction: str, frame: memoryview) -> None:
    LOG.debug("frame %s, %d bytes: %s", direction, len(frame), frame[:64].hex())
