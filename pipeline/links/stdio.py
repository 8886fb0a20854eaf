"""A guest on standard input and output: two streams of frames with a 2-byte length before each.

The supervisor takes the two descriptors before it forks (``take``). Standard output then leads to standard
error, so a stray print cannot mix with the frames. The two descriptors may be pipes or sockets.
"""

import os
import stat
from collections.abc import Sequence
from typing import Final

from pipeline.links.base import Buffer, Link
from pipeline.links.listener import Arrival, LinkResources, Listener, Owner, Poller
from pipeline.links.stream import StreamLink
from pipeline.wire.framing import LE16

PROTOCOL: Final = "stdio"
PEER: Final = "remote"
"""gvproxy's name for the peer of its standard streams."""
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class PipePair:
    """A read and a write descriptor with the interface of one stream socket. It owns both."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd

    def setblocking(self, flag: bool) -> None:
        """Set both descriptors. A process that shares the same open pipe end shares this flag too."""
        os.set_blocking(self._read_fd, flag)
        os.set_blocking(self._write_fd, flag)

    def recv_into(self, buffer: memoryview) -> int:
        """Read some bytes. Returns 0 at the end. Raises OSError."""
        return os.readv(self._read_fd, [buffer])

    def send(self, data: Buffer) -> int:
        """Write as much as fits. Raises OSError."""
        return os.write(self._write_fd, data)

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """Write as much as fits of all buffers. Raises OSError."""
        return os.writev(self._write_fd, buffers)

    def fileno(self) -> int:
        """The descriptor to read, -1 if closed."""
        return self._read_fd

    def write_fileno(self) -> int:
        """The descriptor to write."""
        return self._write_fd

    def close(self) -> None:
        """Close both. May be called twice."""
        if self._read_fd < 0:
            return
        os.close(self._read_fd)
        os.close(self._write_fd)
        self._read_fd = self._write_fd = -1


class StdioLink(StreamLink):
    """A guest on two descriptors."""

    def __init__(self, pair: PipePair, resources: LinkResources, head: bytes = b"") -> None:
        """head: bytes of the stream that another process has already read."""
        super().__init__(pair, LE16, resources.pool, resources.slots, head)
        self._pair = pair

    def write_fileno(self) -> int:
        """See Link.write_fileno."""
        return self._pair.write_fileno()


class StdioListener(Listener):
    """Serves one guest on two descriptors. This guest is there from the start."""

    protocol = PROTOCOL

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._pair = PipePair(read_fd, write_fd)
        self._link: Link | None = None

    def open(self, poller: Poller, resources: LinkResources, owner: Owner) -> None:
        """See Listener.open."""
        self._link = StdioLink(self._pair, resources)
        owner.attach(Arrival(self._link, PROTOCOL, PEER), self)

    def close(self) -> None:
        """See Listener.close."""
        if self._link is None:
            self._pair.close()


def take() -> tuple[int, int]:
    """Move standard input and output to other numbers, and return these.

    From then on descriptor 0 is /dev/null and descriptor 1 is standard error. Raises OSError if one of the
    two streams cannot be polled (a file, /dev/null).
    """
    for fd, name in ((_STDIN, "standard input"), (_STDOUT, "standard output")):
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))):
            raise OSError(f"{name} is neither pipe nor socket")
    taken = os.dup(_STDIN), os.dup(_STDOUT)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, _STDIN)
    os.close(null)
    os.dup2(_STDERR, _STDOUT)
    return taken
