"""One shared-memory segment without a name: made before the workers fork, inherited by them.

The POSIX name exists only between ``shm_open`` and ``shm_unlink``, two system calls
apart, so that nothing can stay in /dev/shm however the processes end. Fresh memory is
zero, which every user of the segment takes as its initial state. What lies where is
decided elsewhere (topology.py); this module knows only bytes.
"""

import mmap
import os
import secrets
import sys

if sys.platform != "win32":
    import posix_ipc


def passing_name() -> str:
    """A name for the moment between creation and unlinking: tells whose it was, and never collides."""
    return f"/gvtap-{os.getpid()}-{secrets.token_hex(8)}"


class Segment:
    """A shared mapping; ``buf`` is a writable memoryview of all its bytes (format "B")."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.buf = memoryview(mapping)

    @classmethod
    def create(cls, size: int) -> "Segment":
        """Map size zero bytes, shared with every process forked from here on.

        Raises OSError when the system refuses the memory, ValueError when size is not positive.
        Pages are committed on first touch, not here.
        """
        if size <= 0:
            raise ValueError(f"segment size must be positive, not {size}")
        shared = posix_ipc.SharedMemory(passing_name(), posix_ipc.O_CREX, mode=0o600)
        try:
            shared.unlink()
            os.ftruncate(shared.fd, size)
            mapping = mmap.mmap(shared.fd, size, mmap.MAP_SHARED)
        finally:
            shared.close_fd()
        return cls(mapping)

    def close(self) -> None:
        """Unmap the memory in this process. BufferError while a view made from ``buf`` lives."""
        self.buf.release()
        self._mapping.close()
