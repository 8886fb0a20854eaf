"""Two directions of frames between tap and link, in one loop over non-blocking descriptors.

    tap  --read, one frame a call, each after its length prefix-->  buffer  --one write for many-->  link
    link --one read for many-->  buffer  --write, one frame a call-->  tap

Frames stay where the kernel put them. Only the incomplete frame at the end of a read is moved to the front.
While the link takes no more, the tap is not read, and the guest kernel's queue slows its senders. A tap that
is down loses the host's frames, as a cable would.

A frame is the result of one read of the tap. With IFF_VNET_HDR it includes a virtio-net header, which is
passed on as the kernel made it. The framing object decides how long a frame may be.
"""

import errno
import io
import logging
import select
from collections.abc import Callable
from typing import Final

from guest.link import Link, LinkError
from guest.tap import Tap
from pipeline.wire import framing as frames
from pipeline.wire.framing import Framing

LOG: Final = logging.getLogger("gvtap-guest")

BURST_BYTES: Final = 64 * 1024
READ_BYTES: Final = 256 * 1024
MIN_FRAME: Final = 14

# The tap refuses one frame, which is lost. The link is sound.
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
        """max_frame: longest frame in bytes read from the tap in one call; never shortens legal ones.

        min_frame: shorter frames of the host are dropped. head: bytes already read of the link (up to 64
        KiB).
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
        self._filled = len(head)  # bytes of an incomplete frame at the front of _in

    def run(self, watched: dict[int, Callable[[], None]]) -> None:
        """Forward for ever. watched: more descriptors to poll, each with a function to call when readable.

        Ends by an exception only: LinkError when the host hung up, OSError, WireError for
        a length no frame can have, or whatever a watcher raises. A watcher may change the dict.
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
                        break  # it may have closed another of these, and opened one with the same number

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
                # Only an MTU above what the prefix can count makes such a frame.
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
        """Take one read of the link and give its whole frames to the tap."""
        length = self._reader.readinto(self._in[self._filled :])
        if length is None:
            return
        if length == 0:
            raise LinkError("the host closed the link")
        self._deliver(self._filled + length)

    def _deliver(self, end: int) -> None:
        """Give the whole frames of the first end bytes of _in to the tap, and move the rest to the front."""
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
