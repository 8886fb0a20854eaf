"""A packet capture file, written while frames pass (the classic pcap format, times in microseconds).

::

    magic a1b2c3d4 | 2 | 4 | zone 0 | 0 | snaplen | linktype 1 (Ethernet)       once, 24 bytes
    seconds | microseconds | bytes kept | bytes on the wire | frame              for each frame

All fields are little-endian. Records are gathered by add() and leave with one system call in flush(), so a
reader of the growing file sees each burst at once. Writing blocks: a slow disk slows the network. Knows
nothing of frames but their length.
"""

import os
import stat
from struct import Struct
from typing import Final

SNAPLEN: Final = 262144
LINKTYPE_ETHERNET: Final = 1
FILE_MODE: Final = 0o600
"""What passed the network is for the eyes of who asked for it."""

_MAGIC: Final = 0xA1B2C3D4
_FILE: Final = Struct("<IHHiIII")
_RECORD: Final = Struct("<IIII")
_MICROSECONDS: Final = 1_000_000


def open_file(path: str) -> int:
    """A descriptor with the file's header in it. Raises OSError.

    A file or socket of that name is replaced; a FIFO is written into, if somebody reads it.
    """
    try:
        is_fifo = stat.S_ISFIFO(os.lstat(path).st_mode)
    except FileNotFoundError:
        is_fifo = False
    else:
        if not is_fifo:
            os.unlink(path)
    if is_fifo:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(fd, True)
    else:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    os.write(fd, _FILE.pack(_MAGIC, 2, 4, 0, 0, SNAPLEN, LINKTYPE_ETHERNET))
    return fd


class PcapWriter:
    """Appends records to an open capture file, whose descriptor it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._gathered: list[bytes | bytearray | memoryview] = []

    def add(self, frame: bytes | bytearray | memoryview, when: float) -> None:
        """One frame, seen at a time in seconds since 1970. The memory must stay as it is until flush()."""
        seconds, micro = divmod(round(when * _MICROSECONDS), _MICROSECONDS)
        kept = frame[:SNAPLEN] if len(frame) > SNAPLEN else frame
        self._gathered += (_RECORD.pack(seconds, micro, len(kept), len(frame)), kept)

    def flush(self) -> None:
        """Write what was added. Raises OSError: the file is of no use from then on."""
        if not self._gathered:
            return
        data = memoryview(b"".join(self._gathered))
        self._gathered.clear()
        while data:
            written = os.write(self._fd, data)
            data = data[written:]

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
