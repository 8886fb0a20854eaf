"""The bytes of a region of guest memory, in a file that a monitor has passed. The file must lie in memory.

A mapping is fast, but it is safe only if the file cannot shrink: an access beyond its end is a fatal signal
(SIGBUS). So a file is mapped only if it has the seal F_SEAL_SHRINK, or takes it now. Any other file is read
and written with system calls, which report its end.

==============================================  =========================================================
file                                            how
==============================================  =========================================================
memfd with F_SEAL_SHRINK, or that takes it      mapped
memfd without seals, file of /dev/shm           system calls
file of hugetlbfs                               refused: it cannot be written, and a hole in it is SIGBUS
any other file                                  refused: a file system could block this program
==============================================  =========================================================
"""

import mmap
import os
import sys
from contextlib import suppress
from typing import Final

from pipeline.engines.virtio.memory import LOST, Bytes, RegionBytes, RingError
from pipeline.wire.vhost_user import Region

if sys.platform != "win32":
    import fcntl

# Python has these names on Linux only.
_F_ADD_SEALS: Final = 1033
_F_GET_SEALS: Final = 1034
_F_SEAL_SHRINK: Final = 2
_PAGE: Final = mmap.PAGESIZE


class MemoryRefused(Exception):  # noqa: N818  a monitor's file, not an error of this program
    """A file cannot serve as guest memory. The text says why."""


class MappedRegion(RegionBytes):
    """A region of a file that cannot shrink."""

    def __init__(self, fd: int, region: Region) -> None:
        """Map the region. The descriptor stays the caller's. Raises MemoryRefused."""
        within = region.file_off % _PAGE
        try:
            self._map = mmap.mmap(fd, within + region.size, offset=region.file_off - within)
        except (OSError, ValueError, OverflowError) as error:
            raise MemoryRefused(f"memory cannot be mapped: {error}") from error
        self._view = memoryview(self._map)[within : within + region.size]
        self._words = self._view[: region.size & ~1].cast("H")

    def read(self, off: int, length: int) -> Bytes:
        """See RegionBytes.read()."""
        return self._view[off : off + length]

    def read_into(self, off: int, target: memoryview) -> None:
        """See RegionBytes.read_into()."""
        target[:] = self._view[off : off + len(target)]

    def write(self, off: int, data: Bytes) -> None:
        """See RegionBytes.write()."""
        self._view[off : off + len(data)] = data

    def load16(self, off: int) -> int:
        """See RegionBytes.load16()."""
        return self._words[off >> 1]

    def store16(self, off: int, value: int) -> None:
        """See RegionBytes.store16()."""
        self._words[off >> 1] = value

    def close(self) -> None:
        """See RegionBytes.close()."""
        self._words.release()
        # A view of a part may still be somewhere. Then the mapping ends with it.
        with suppress(BufferError):
            self._view.release()
            self._map.close()


class FileRegion(RegionBytes):
    """A region of a file that may shrink."""

    def __init__(self, fd: int, region: Region) -> None:
        """The descriptor stays the caller's. Raises MemoryRefused."""
        # This process can open no file. The monitor has the same open file, and could set O_APPEND. The file
        # would then grow with each write. write() looks for that, and the monitor harms itself alone.
        self._fd = os.dup(fd)
        self._at = region.file_off
        if os.fstat(self._fd).st_size < region.file_off + region.size:
            self.close()
            raise MemoryRefused("memory is longer than its file")

    def read(self, off: int, length: int) -> Bytes:
        """See RegionBytes.read()."""
        try:
            data = os.pread(self._fd, length, self._at + off)
        except OSError as error:
            raise _lost() from error
        if len(data) < length:
            raise _lost()
        return data

    def read_into(self, off: int, target: memoryview) -> None:
        """See RegionBytes.read_into()."""
        try:
            count = os.preadv(self._fd, [target], self._at + off)
        except OSError as error:
            raise _lost() from error
        if count < len(target):
            raise _lost()

    def write(self, off: int, data: Bytes) -> None:
        """See RegionBytes.write()."""
        if fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_APPEND:
            raise RingError("the file of the guest's memory appends what is written", LOST)
        try:
            count = os.pwrite(self._fd, data, self._at + off)
        except OSError as error:
            raise _lost() from error
        if count < len(data):
            raise _lost()

    def load16(self, off: int) -> int:
        """See RegionBytes.load16()."""
        return int.from_bytes(self.read(off, 2), "little")

    def store16(self, off: int, value: int) -> None:
        """See RegionBytes.store16()."""
        self.write(off, value.to_bytes(2, "little"))

    def close(self) -> None:
        """See RegionBytes.close()."""
        os.close(self._fd)


def _lost() -> RingError:
    return RingError("the file of the guest's memory has shrunk", LOST)


def open_region(fd: int, region: Region) -> RegionBytes:
    """The bytes of a region of this file. The descriptor stays the caller's. Raises MemoryRefused."""
    try:
        seals = fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        raise MemoryRefused(
            "the file of the guest's memory does not lie in memory (memfd or tmpfs)"
        ) from None
    if os.fstatvfs(fd).f_bsize > _PAGE:
        raise MemoryRefused(
            "guest memory of huge pages (hugetlbfs) is not supported: they cannot be read safely"
        )
    if not seals & _F_SEAL_SHRINK:
        try:
            fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SHRINK)
        except OSError:
            return FileRegion(fd, region)
    return MappedRegion(fd, region)
