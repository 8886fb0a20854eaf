"""One shared-memory segment without a name: made before the workers fork, inherited by them.

The POSIX name exists only between ``shm_open`` and ``shm_unlink``, two system calls
apart, so that nothing can stay in /dev/shm however the processes end. Fresh memory is
zero, which every user of the segment takes as its initial state. What lies where is
decided elsewhere (topology.py); this module knows only bytes.

The memory is reserved when the segment is made. On Linux shared memory is a file system with a size of its
own, often a small one in a container. A page that it has no room for is SIGBUS for whoever touches it first,
hours after the start. A reservation of 40 MB takes about 5 ms and counts as shared memory of the system
from then on; a process counts the pages that it touches, as before.
"""

import errno
import mmap
import os
import secrets
import sys
from typing import Final

if sys.platform != "win32":
    import posix_ipc

MIB: Final = 1 << 20


def passing_name() -> str:
    """A name for the moment between creation and unlinking: tells whose it was, and never collides."""
    return f"/gvtap-{os.getpid()}-{secrets.token_hex(8)}"


class SegmentError(Exception):
    """The system has not enough shared memory; the text says how much is missing, as far as that is known."""


class Segment:
    """A shared mapping; ``buf`` is a writable memoryview of all its bytes (format "B")."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.buf = memoryview(mapping)

    @classmethod
    def create(cls, size: int) -> "Segment":
        """Map size zero bytes, shared with every process forked from here on.

        Raises SegmentError when the system has no room for them, ValueError when size is not positive.
        """
        if size <= 0:
            raise ValueError(f"segment size must be positive, not {size}")
        try:
            shared = posix_ipc.SharedMemory(passing_name(), posix_ipc.O_CREX, mode=0o600)
        except (posix_ipc.Error, OSError) as error:
            raise SegmentError(f"no shared memory can be made: {error}") from error
        try:
            shared.unlink()
            os.ftruncate(shared.fd, size)
            # macOS has no such call, and no file system behind its shared memory.
            reserve = getattr(os, "posix_fallocate", None)
            if reserve is not None:
                reserve(shared.fd, 0, size)
            mapping = mmap.mmap(shared.fd, size, mmap.MAP_SHARED)
        except OSError as error:
            raise SegmentError(_shortage(size, shared.fd, error)) from error
        finally:
            shared.close_fd()
        return cls(mapping)

    def close(self) -> None:
        """Unmap the memory in this process. BufferError while a view made from ``buf`` lives."""
        self.buf.release()
        self._mapping.close()


def _shortage(size: int, fd: int, error: OSError) -> str:
    text = f"{size / MIB:.1f} MiB of shared memory are needed"
    if error.errno != errno.ENOSPC:
        return f"{text}: {error.strerror}"
    found = os.fstatvfs(fd)
    free = found.f_bavail * found.f_frsize
    return f"{text}, /dev/shm has {free / MIB:.1f} MiB free: {max(size - free, 0) / MIB:.1f} MiB are missing"
