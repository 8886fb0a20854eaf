"""Writes one pcapng capture to a socket that may be slow: a bounded queue, and a thread that writes.

Blocks of frames may get lost, and the next frame then says how many. A block that describes an interface may
not, because the frames after it name it. It waits until there is room.
"""

import errno
import os
import socket
from typing import Final

from pipeline.system.outlet import Outlet
from pipeline.wire import pcapng

MAX_QUEUED: Final = 4 * 1024 * 1024
"""Bytes of blocks that may wait for the reader."""
END_WAIT: Final = 0.01
"""Seconds that close() waits for a write that has been cut."""
APPLICATION: Final = "gvtap-pipeline"

_GONE: Final = frozenset({errno.ENOTCONN, errno.EINVAL})
"""The peer has closed its end already."""


class LiveWriter:
    """The blocks of one capture. It owns the socket's descriptor."""

    def __init__(self, fd: int, head: bytes, snaplen: int) -> None:
        """head: bytes before the capture. snaplen: bytes that are kept of a frame."""
        self.fd = fd
        self.frames = 0
        """Frames that were queued so far."""
        self.missing = 0
        """Frames that found no room so far."""
        self._snaplen = snaplen
        self._outlet = Outlet(MAX_QUEUED, stop_at_error=True)
        self._due: list[bytes] = [head + pcapng.section_header(APPLICATION)]
        """Blocks that must not get lost."""
        self._gathered: list[pcapng.Buffer] = []
        self._count = 0
        self._unreported = 0
        """Missing frames that no queued frame reports."""
        self._reported = 0
        """Missing frames that a gathered frame reports."""
        self._next = 0
        self._interfaces: dict[int, int] = {}

    def add_interface(self, link: int, name: str, description: str, mac: bytes) -> None:
        """Describe the interface of a link. Its frames may follow."""
        self._due.append(pcapng.interface_description(name, description, mac, self._snaplen))
        self._interfaces[link] = self._next
        self._next += 1

    def forget_interface(self, link: int) -> None:
        """The link is gone."""
        self._interfaces.pop(link, None)

    def add(self, link: int, frame: pcapng.Buffer, when: int, flags: int, comment: str) -> None:
        """Add a frame of a link with an interface. The caller must not change the frame before flush()."""
        interface = self._interfaces.get(link)
        if interface is None:
            return
        lost, self._unreported = self._unreported, 0
        self._reported += lost
        self._gathered += pcapng.enhanced_packet(interface, when, frame, self._snaplen, flags, lost, comment)
        self._count += 1

    def flush(self) -> int:
        """Queue what was added. Returns how many frames found no room. Never waits.

        Raises OSError if the reader is gone.
        """
        error = self._outlet.error
        if error is not None:
            raise error
        if not self._gathered and not self._due:
            return 0
        count, self._count = self._count, 0
        reported, self._reported = self._reported, 0
        data = b"".join([*self._due, *self._gathered])
        self._gathered = []
        if self._outlet.put(self.fd, data, count):
            self._due = []
            self.frames += count
            return 0
        self.missing += count
        self._unreported += count + reported
        return count

    def is_written(self) -> bool:
        """Whether nothing is queued."""
        return self._outlet.flush(0)

    def drain(self, timeout: float) -> bool:
        """Wait at most timeout seconds for what is queued. Returns whether it is written."""
        return self._outlet.flush(timeout)

    def close(self) -> bool:
        """Cut the connection. Returns whether it is closed; call it again later if not.

        The descriptor stays open while a write is in the system: another file could get its number.
        """
        if self.fd < 0:
            return True
        if not self.is_written():
            self._cut()
            if not self._outlet.flush(END_WAIT):
                return False
        os.close(self.fd)
        self.fd = -1
        return True

    def _cut(self) -> None:
        """Let a write that waits for room fail at once."""
        with socket.socket(fileno=os.dup(self.fd)) as sock:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
