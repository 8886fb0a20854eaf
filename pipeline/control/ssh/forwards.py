"""All forwards over ssh. The ssh library is loaded when the first one is opened.

asyncssh is an extra of the package, since most users have no such forwards. Loading it costs 70 ms and 8 MB.
"""

import asyncio
import importlib.util
import socket
from typing import TYPE_CHECKING, Final

import structlog

from pipeline.control.ssh.destination import Destination, SshError
from pipeline.control.threads import Threads
from pipeline.control.workers import Request
from pipeline.system import socket_file

if TYPE_CHECKING:
    from pipeline.control.ssh.socket_forward import SocketForward

LIBRARY: Final = "asyncssh"
MAX_READERS: Final = 4
"""Keys that are read at once. A file system that does not answer holds its reader."""


def check_library() -> None:
    """Raise SshError if the ssh library is not installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise SshError(
            f"forwards over ssh need {LIBRARY}, which is not installed: pip install 'gvtap-pipeline[ssh]'"
        )


class SocketForwards:
    """All forwards over ssh, by the path of their socket."""

    def __init__(self, request: Request, log: structlog.typing.FilteringBoundLogger) -> None:
        """request reaches the workers: guests are dialled through one of them."""
        self._request = request
        self._log = log
        self._threads = Threads(MAX_READERS)
        self._forwards: dict[str, SocketForward] = {}
        self._given: dict[str, tuple[socket.socket, socket_file.OwnFile]] = {}
        self._reserved: set[str] = set()
        """Those of them that this process has bound."""

    async def check_key(self, path: str) -> None:
        """Raise SshError for a key that can never work. Each attempt to connect reads it again."""
        check_library()
        from pipeline.control.ssh.connection import read_key  # noqa: PLC0415  the library is an extra

        await self._threads.run(lambda: read_key(path))

    async def open(self, path: str, destination: Destination) -> None:
        """Make a socket that leads to the guest's. Raises SocketError, and SshError without the library."""
        check_library()
        from pipeline.control.ssh.connection import SshConnection, dialler  # noqa: PLC0415  as above
        from pipeline.control.ssh.socket_forward import SocketForward  # noqa: PLC0415

        connection = SshConnection(destination, dialler(self._request), self._log, threads=self._threads)
        forward = SocketForward(path, connection, self._log)
        try:
            given, _ = self._given.pop(path, (None, None))
            await forward.open(given)
        except BaseException:
            await forward.close()
            raise
        self._forwards[path] = forward
        self._log.info("socket forwarded", socket=path, to=destination.path, user=destination.user)

    def give(self, path: str, sock: socket.socket) -> None:
        """A predecessor of this program has bound this socket for a forward. It is this object's."""
        sock.setblocking(False)
        self._given[path] = sock, socket_file.OwnFile(path, bound=True)

    async def reserve(self, path: str, key: str) -> None:
        """Check the key of a forward that will be opened, and bind its socket unless it is bound.

        Raises SocketError, SshError, OSError.
        """
        await self.check_key(key)
        if path not in self._given:
            from pipeline.control.ssh.socket_forward import bind  # noqa: PLC0415  as below

            self.give(path, bind(path))
            self._reserved.add(path)

    def drop_given(self, *, keep_files: bool) -> None:
        """Close the sockets that nobody has asked for. keep_files: those of a predecessor stay."""
        for path, (sock, file) in self._given.items():
            if keep_files and path not in self._reserved:
                file.forget()
            else:
                file.remove()
            sock.close()
        self._given.clear()

    def listener_of(self, path: str) -> socket.socket | None:
        """The listening socket of an open forward, which stays this object's."""
        forward = self._forwards.get(path)
        return forward.listener if forward is not None else None

    @property
    def paths(self) -> list[str]:
        """The sockets of all forwards."""
        return list(self._forwards)

    def leave(self) -> None:
        """Another process has all sockets: let their files be."""
        for forward in self._forwards.values():
            forward.leave()

    async def close(self, path: str) -> None:
        """Remove one, with its clients. KeyError if there is none."""
        await self._forwards.pop(path).close()

    async def close_all(self) -> None:
        """Remove all."""
        await asyncio.gather(*(self.close(path) for path in list(self._forwards)))
