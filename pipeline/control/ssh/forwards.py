"""All forwards over ssh. The ssh library is loaded when the first one is opened.

asyncssh is an extra of the package, since most users have no such forwards. Loading it costs 70 ms and 8 MB.
"""

import asyncio
import importlib.util
from typing import TYPE_CHECKING, Final

import structlog

from pipeline.control.ssh.destination import Destination, SshError
from pipeline.control.threads import Threads
from pipeline.control.workers import Request

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
            await forward.open()
        except BaseException:
            await forward.close()
            raise
        self._forwards[path] = forward
        self._log.info("socket forwarded", socket=path, to=destination.path, user=destination.user)

    async def close(self, path: str) -> None:
        """Remove one, with its clients. KeyError if there is none."""
        await self._forwards.pop(path).close()

    async def close_all(self) -> None:
        """Remove all."""
        await asyncio.gather(*(self.close(path) for path in list(self._forwards)))
