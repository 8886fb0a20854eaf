"""Writes frames to a packet capture file (the classic pcap format, times in microseconds).

::

    magic a1b2c3d4 | 2 | 4 | zone 0 | 0 | snaplen | linktype 1 (Ethernet)       once, 24 bytes
    seconds | microseconds | bytes kept | bytes on the wire | frame              for each frame

All fields are little-endian. add() gathers records and flush() writes them as one piece, so a program that
reads the growing file sees whole bursts. A thread writes (pipeline.system.outlet). If the reader of the file
stops, or the disk is slow or full, the capture loses frames. The network is never slowed.
"""

import os
import stat
from struct import Struct
from typing import Final

from pipeline.system import output_file
from pipeline.system.outlet import Outlet

SNAPLEN: Final = 262144
LINKTYPE_ETHERNET: Final = 1
FILE_MODE: Final = 0o600
"""Only the user who asked for a capture may read it."""

MAX_QUEUED: Final = 16 * 1024 * 1024
"""Bytes of records that may wait to be written. Further frames are left out, and counted."""
LAST_WAIT: Final = 0.4
"""Seconds that close() waits for what is queued."""

_MAGIC: Final = 0xA1B2C3D4
_FILE: Final = Struct("<IHHiIII")
_RECORD: Final = Struct("<IIII")
_MICROSECONDS: Final = 1_000_000


def open_file(path: str) -> int:
    """A descriptor with the file's header in it. Raises OSError.

    An existing file or symbolic link is replaced, and the file that the link names stays. An existing FIFO,
    character device or descriptor is opened (see pipeline.system.output_file). A FIFO needs a reader.
    """
    shared = output_file.descriptor(path) is not None
    if not shared and _is_replaced(path):
        os.unlink(path)
    fd = output_file.open_file(path, FILE_MODE)
    try:
        # If it blocked, the program would hang at the start if a FIFO is full.
        os.set_blocking(fd, shared)
        os.write(fd, _FILE.pack(_MAGIC, 2, 4, 0, 0, SNAPLEN, LINKTYPE_ETHERNET))
        os.set_blocking(fd, True)
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_replaced(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


class PcapWriter:
    """Appends records to an open capture file, whose descriptor it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._gathered: list[bytes | bytearray | memoryview] = []
        self._outlet = Outlet(MAX_QUEUED, stop_at_error=True)

    def add(self, frame: bytes | bytearray | memoryview, when: float) -> None:
        """Add a frame. when: seconds since 1970. The caller must not change the frame before flush()."""
        seconds, micro = divmod(round(when * _MICROSECONDS), _MICROSECONDS)
        kept = frame[:SNAPLEN] if len(frame) > SNAPLEN else frame
        self._gathered += (_RECORD.pack(seconds, micro, len(kept), len(frame)), kept)

    def flush(self) -> int:
        """Queue what was added for writing. Returns how many of its frames found no room. Never waits.

        If an earlier write failed, this raises its OSError: the file is unusable from then on.
        """
        error = self._outlet.error
        if error is not None:
            self._gathered.clear()
            raise error
        if not self._gathered:
            return 0
        frames = len(self._gathered) // 2
        data = b"".join(self._gathered)
        self._gathered.clear()
        return 0 if self._outlet.put(self._fd, data, frames) else frames

    @property
    def waits_for_room(self) -> str:
        """What the system says about a disk that is full; "" while the file is written."""
        error = self._outlet.failing.get(self._fd)
        return error.strerror or "" if error is not None else ""

    def drain(self, timeout: float) -> bool:
        """Wait at most timeout seconds until all is written or has failed. Returns whether it is."""
        return self._outlet.flush(timeout)

    def close(self) -> None:
        """Wait at most LAST_WAIT for what is queued, then close the file. May be called twice."""
        # If a write hangs, the descriptor stays open. Otherwise another file could get its number.
        if self._fd >= 0 and self.drain(LAST_WAIT):
            os.close(self._fd)
        self._fd = -1
