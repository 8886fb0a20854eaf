"""One shared-memory segment without a name. The supervisor makes it before the fork; workers inherit it.

The POSIX name is removed right after it is created. So nothing stays in /dev/shm, however the processes end.
New memory is zero, and every user of the segment takes zero as its initial state. fabric.py decides which
part lies where.

The memory is reserved when the segment is made. On Linux shared memory is a file system with a limit of its
own, which is often small in a container. A page for which it has no room kills the process that touches it
first (SIGBUS), perhaps hours after the start. A reservation fails at the start instead. Reserving 40 MB takes
about 5 ms.
"""

import errno
import mmap
import os
import sys
from typing import Final

if sys.platform != "win32":
    import posix_ipc

MIB: Final = 1 << 20


def temporary_name() -> str:
    """A unique name, for the time between creation and unlinking. It has the process id."""
    return f"/gvtap-{os.getpid()}-{os.urandom(8).hex()}"


class SegmentError(Exception):
    """The system has too little shared memory. The text says how much is missing, if that is known."""


class Segment:
    """A shared mapping; ``buf`` is a writable memoryview of all its bytes (format "B")."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.buf = memoryview(mapping)

    @classmethod
    def create(cls, size: int, *, anywhere: bool = False) -> "Segment":
        """Map size bytes, all zero. Processes that are forked later share them.

        anywhere: if the file system for shared memory is full, use memory that it does not limit.

        Raises SegmentError when the system has no room for them, ValueError when size is not positive.
        """
        if size <= 0:
            raise ValueError(f"segment size must be positive, not {size}")
        try:
            shared = posix_ipc.SharedMemory(temporary_name(), posix_ipc.O_CREX, mode=0o600)
        except (posix_ipc.Error, OSError) as error:
            raise SegmentError(f"no shared memory can be made: {error}") from error
        try:
            shared.unlink()
            os.ftruncate(shared.fd, size)
            # macOS has no such call. Its shared memory is not a file system with a limit.
            reserve = getattr(os, "posix_fallocate", None)
            if reserve is not None:
                reserve(shared.fd, 0, size)
            mapping = mmap.mmap(shared.fd, size, mmap.MAP_SHARED)
        except OSError as error:
            if anywhere and error.errno == errno.ENOSPC and hasattr(os, "memfd_create"):
                return cls(_nameless(size))
            raise SegmentError(_shortage(size, shared.fd, error)) from error
        finally:
            shared.close_fd()
        return cls(mapping)

    def close(self) -> None:
        """Unmap the memory in this process. Raises BufferError while a view of ``buf`` exists."""
        self.buf.release()
        self._mapping.close()


def _nameless(size: int) -> mmap.mmap:
    """The memory of a file that no file system has. Raises SegmentError."""
    try:
        fd = os.memfd_create("gvtap")
        try:
            os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, size)
            return mmap.mmap(fd, size, mmap.MAP_SHARED)
        finally:
            os.close(fd)
    except OSError as error:
        text = f"{size / MIB:.1f} MiB of shared memory are needed"
        raise SegmentError(f"{text}: {error.strerror}") from error


def _shortage(size: int, fd: int, error: OSError) -> str:
    text = f"{size / MIB:.1f} MiB of shared memory are needed"
    if error.errno != errno.ENOSPC:
        return f"{text}: {error.strerror}"
    found = os.fstatvfs(fd)
    free = found.f_bavail * found.f_frsize
    return f"{text}, /dev/shm has {free / MIB:.1f} MiB free: {max(size - free, 0) / MIB:.1f} MiB are missing"
