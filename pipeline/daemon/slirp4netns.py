"""What gvtap-slirp4netns adds to the daemon: slirp4netns' API socket, and the descriptors of its caller."""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from pipeline.config.slirp4netns import OWN, Options
from pipeline.control.hostfwd import HostForwards, HostForwardServer
from pipeline.control.plane import ControlPlane
from pipeline.system import socket_file

SOCKET_MODE: Final = 0o600
_READY: Final = b"1"


class StartError(Exception):
    """The program cannot start. The text says why."""


class Companion:
    """What the program adds to the daemon: its API socket and the descriptors of its caller."""

    def __init__(self, own: Options) -> None:
        """Bind the API socket. Raises StartError."""
        self._own = own
        self._ready_fd = own.ready_fd
        self._listener = _bind(own.api_socket) if own.api_socket else None
        self._file = socket_file.OwnFile(own.api_socket, bound=True) if own.api_socket else None
        self._server: HostForwardServer | None = None
        self._hang_up: select.epoll | None = None

    @property
    def fds(self) -> Sequence[int]:
        """See pipeline.daemon.programs.Companion."""
        listener = () if self._listener is None else (self._listener.fileno(),)
        return [fd for fd in (self._own.exit_fd, self._ready_fd, *listener) if fd >= 0]

    async def opened(self, plane: ControlPlane, stop: Callable[[str], None]) -> None:
        """See pipeline.daemon.programs.Companion."""
        if self._listener is not None:
            forwards = HostForwards(plane.forwarder, str(self._own.subnet[OWN]))
            self._server = HostForwardServer(forwards)
            await self._server.listen(self._listener)
        if self._own.exit_fd >= 0:
            # No event is asked for, so only the hang-up is reported, and not what the caller writes.
            self._hang_up = select.epoll()
            # A file that cannot be polled never hangs up.
            with suppress(PermissionError):
                self._hang_up.register(self._own.exit_fd, 0)
            asyncio.get_running_loop().add_reader(self._hang_up, self._on_exit_fd, stop)
        self._say_ready()

    def _on_exit_fd(self, stop: Callable[[str], None]) -> None:
        assert self._hang_up is not None
        asyncio.get_running_loop().remove_reader(self._hang_up)
        stop("exit-fd")

    def _say_ready(self) -> None:
        if self._ready_fd >= 0:
            with suppress(OSError):
                os.write(self._ready_fd, _READY)
            os.close(self._ready_fd)
            self._ready_fd = -1

    def close(self) -> None:
        """See pipeline.daemon.programs.Companion."""
        if self._hang_up is not None:
            self._hang_up.close()
        if self._server is not None:
            self._server.close()
        if self._file is not None:
            # A successor may have put its own socket there.
            self._file.remove()
        if self._listener is not None:
            self._listener.close()


def _bind(path: str) -> socket.socket:
    if fault := socket_file.fault(path, relative=True):
        raise StartError(f"--api-socket {path}: {fault}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        socket_file.bind(sock, path, SOCKET_MODE)
        sock.listen()
    except OSError as error:
        sock.close()
        words = os.strerror(error.errno or 0).lower()
        raise StartError(f"--api-socket {path}: {words}") from None
    sock.setblocking(False)
    return sock
