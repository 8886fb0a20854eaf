"""The link on a tap: a network interface of the kernel whose frames this link reads and writes.

Each frame costs a system call. But with virtio-net headers the kernel gives and takes super-segments of up to
64 KiB with checksums left undone (pipeline.wire.virtio_net), so there are few of them. A tap that another
program opened without IFF_VNET_HDR is a packet link like others, without offload.

The kernel takes every frame at once, unless the interface is down. Then the frame is lost and counted, as
with a cable that is not plugged in. When the interface is deleted, or its namespace ends, the link ends.
"""

import errno
import io
import os
import stat
from collections.abc import Sequence
from typing import Final

from pipeline.links.addresses import words_of
from pipeline.links.base import Buffer, Burst, LinkClosed, SlotPool
from pipeline.links.listener import Arrival, LinkResources, Listener, Owner, Poller
from pipeline.links.packet import PacketLink
from pipeline.links.tap_url import PROTOCOL
from pipeline.system import tap
from pipeline.wire import offload

BIG_FRAME: Final = 16384
"""After a frame of this length, the link expects more of them. It then reads on in a slot that can hold the
longest one, since the part of a frame that does not fit is copied."""
FEW_BURSTS: Final = 16
"""Bursts without such a frame after which small ones share a slot again."""

_ENDED: Final = frozenset((getattr(errno, "EBADFD", -1), errno.EBADF))
"""Errors of a tap whose interface was deleted, and of a descriptor that never had one."""
_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
_TUN: Final = 10 << 8 | 200
"""The device of /dev/net/tun: 10 and 200 in every Linux (Documentation/admin-guide/devices.txt)."""
_REFUSED: Final = "link_frame_dropped_refused"
_RUNT: Final = "link_frame_dropped_runt"


class TapFile:
    """The descriptor of a tap, with the interface of a packet socket. It owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def setblocking(self, flag: bool) -> None:
        """Set the mode. A process that has the same open file shares it."""
        os.set_blocking(self._fd, flag)

    def recv_into(self, buffer: memoryview) -> int:
        """Read a frame. Raises OSError."""
        return os.readv(self._fd, [buffer])

    def recvmsg_into(self, buffers: Sequence[memoryview]) -> tuple[int, object, int, object]:
        """Read a frame into several buffers. Raises OSError."""
        return os.readv(self._fd, buffers), None, 0, None

    def send(self, data: Buffer) -> int:
        """Write a frame. Raises OSError."""
        return os.write(self._fd, data)

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """Write a frame of several buffers. Raises OSError."""
        return os.writev(self._fd, buffers)

    def fileno(self) -> int:
        """The descriptor, -1 if closed."""
        return self._fd

    def close(self) -> None:
        """Close it. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class TapLink(PacketLink):
    """A guest behind a tap. The link owns its descriptor."""

    def __init__(
        self,
        fd: int,
        pool: SlotPool,
        slots: list[memoryview],
        mtu: int,
        *,
        has_headers: bool = True,
        shared: bool = False,
    ) -> None:
        """has_headers: the tap was opened with IFF_VNET_HDR. Raises OSError if it cannot be set up.

        shared: another process has the open file too, and may clear O_NONBLOCK. Then no call relies on it.
        """
        super().__init__(TapFile(fd), pool, slots, mtu)
        if has_headers:
            # A Linux tap takes these in any case (docs/offload.md).
            self.begin_vnet(offload.FEATURES)
            self.features = tap.offload(fd, offload.FEATURES)
        self._fd = fd
        self._shared = shared
        self._readinto = io.FileIO(fd, "rb", closefd=False).readinto
        self._small_room = self._room
        self._big_room = min(self._longest, len(slots[0]) - 512)
        self._bursts_since_big = FEW_BURSTS

    # --- from the guest ----------------------------------------------------------------

    def read_burst(self) -> Burst | None:
        """See PacketLink.read_burst."""
        self.starved = False
        if self.drained:
            # Since that read there was no event: nothing has come.
            self.drained = False
            return None
        burst = super().read_burst()
        if burst is None:
            self.drained = False
        else:
            self._expect(burst[1])
        return burst

    def _receive(self, room: memoryview) -> int:
        """See PacketLink._receive. The length counts the header too."""
        count = self._read(room)
        self.drained = count < 0
        return count

    def _read(self, room: memoryview) -> int:
        if len(room) >= self._longest and not self._shared:
            # Unlike readv(), this reports an empty tap without an exception.
            count: int | None = self._readinto(room)
            return -1 if count is None else count
        try:
            if self._shared:
                return os.preadv(self._fd, (room, self._spill), -1, _NOWAIT)
            return os.readv(self._fd, (room, self._spill))
        except BlockingIOError:
            return -1

    def _is_frame(self, view: memoryview, off: int, length: int) -> bool:
        if length > self.vnet_len:
            return True
        self._drop(_RUNT)
        return False

    def _end_text(self, error: OSError) -> str:
        return _end_text(error)

    def _expect(self, frames: list[tuple[int, int]]) -> None:
        """Choose the room that the next frame gets, by these frames."""
        if self._spilled or (frames and frames[-1][1] >= BIG_FRAME):
            self._room = self._big_room
            self._bursts_since_big = 0
        elif self._bursts_since_big < FEW_BURSTS:
            self._bursts_since_big += 1
        else:
            self._room = self._small_room

    # --- to the guest --------------------------------------------------------------------

    def _put(self, packet: Buffer, parts: Sequence[Buffer] = ()) -> bool:
        return self._write(parts or (packet,))

    def _write(self, parts: Sequence[Buffer]) -> bool:
        """Write one frame. False: the queue is full."""
        try:
            if self._shared:
                os.pwritev(self._fd, parts, -1, _NOWAIT)
            else:
                os.writev(self._fd, parts)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _ENDED:
                raise LinkClosed(_end_text(error)) from error
            self._drop(_REFUSED)
        return True

    def close(self) -> None:
        """See Link.close."""
        self._fd = -1
        super().close()


def _end_text(error: OSError) -> str:
    if error.errno in _ENDED:
        return "the tap is gone: its interface was deleted, or its network namespace ended"
    return f"cannot read from the tap: {words_of(error)}"


def passed_link(fd: int, resources: LinkResources) -> tuple[TapLink, str]:
    """The link on a tap that another program has opened, and its name. The link owns the descriptor.

    Raises TapError, and the caller keeps the descriptor, if it is not of a tap that can be a link.
    """
    try:
        info = os.fstat(fd)
        if not stat.S_ISCHR(info.st_mode) or info.st_rdev != _TUN:
            raise TapError("the descriptor is neither a socket nor a tap")
        name, flags = tap.name_and_flags(fd)
        # Some kernels report IFF_NO_PI in any case. Then only this guest's frames make no sense.
        if not flags & tap.IFF_TAP or not flags & tap.IFF_NO_PI:
            raise TapError("the tap must have IFF_TAP and IFF_NO_PI")
        has_headers = bool(flags & tap.IFF_VNET_HDR)
        return TapLink(fd, *resources, has_headers=has_headers, shared=True), name
    except OSError as error:
        raise TapError(f"the descriptor of a tap: {words_of(error)}") from error


class TapError(Exception):
    """A descriptor cannot be a link. The text says why."""


class TapListener(Listener):
    """Serves one guest on a tap, which is there from the start."""

    protocol = PROTOCOL

    def __init__(self, fd: int, *, shared: bool = False) -> None:
        """The listener owns fd from now on. Raises OSError if it is not of a tap.

        shared: another program has opened the tap.
        """
        self._fd = fd
        self._shared = shared
        self._name = tap.name_and_flags(fd)[0]

    def open(self, poller: Poller, resources: LinkResources, owner: Owner) -> None:
        """See Listener.open."""
        fd, self._fd = self._fd, -1
        try:
            link = passed_link(fd, resources)[0] if self._shared else TapLink(fd, *resources)
        except TapError as error:
            os.close(fd)
            owner.fail(self, str(error))
            return
        owner.attach(Arrival(link, PROTOCOL, self._name), self)

    def close(self) -> None:
        """See Listener.close."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
