"""Runs the network of one namespace for gvtap-slirp4netns: opens its tap, then starts the daemon."""

from pipeline.system import light_imports  # isort: skip  # noqa: F401  before anything loads asyncio

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from pipeline import logs, release
from pipeline.config.errors import ConfigError
from pipeline.config.slirp4netns import Options, config_of, place
from pipeline.control.hostfwd import HostForwards, HostForwardServer
from pipeline.control.plane import ControlPlane
from pipeline.daemon import supervisor
from pipeline.daemon.programs import SLIRP4NETNS
from pipeline.links.tap_opener import open_tap
from pipeline.system import netlink, requirements, socket_file
from pipeline.system.namespaces import NamespaceError
from pipeline.wire import ip

FAILED: Final = 1
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
        self._server: HostForwardServer | None = None
        for fd, name in ((own.exit_fd, "--exit-fd"), (own.ready_fd, "--ready-fd")):
            try:
                if fd >= 0:
                    os.set_inheritable(fd, False)
            except OSError as error:
                raise StartError(f"{name}={fd}: {os.strerror(error.errno or 0).lower()}") from None

    @property
    def fds(self) -> Sequence[int]:
        """See pipeline.daemon.programs.Companion."""
        listener = () if self._listener is None else (self._listener.fileno(),)
        return [fd for fd in (self._own.exit_fd, self._ready_fd, *listener) if fd >= 0]

    async def opened(self, plane: ControlPlane, stop: Callable[[str], None]) -> None:
        """See pipeline.daemon.programs.Companion."""
        if self._listener is not None:
            forwards = HostForwards(plane.forwarder, ip.text(self._own.address))
            self._server = HostForwardServer(forwards)
            await self._server.listen(self._listener)
        if self._own.exit_fd >= 0:
            loop = asyncio.get_running_loop()
            # A file that cannot be polled never hangs up.
            with suppress(PermissionError):
                loop.add_reader(self._own.exit_fd, stop, "exit-fd")
        self._say_ready()

    def _say_ready(self) -> None:
        if self._ready_fd >= 0:
            with suppress(OSError):
                os.write(self._ready_fd, _READY)
            os.close(self._ready_fd)
            self._ready_fd = -1

    def close(self) -> None:
        """See pipeline.daemon.programs.Companion."""
        if self._server is not None:
            self._server.close()
        if self._listener is not None:
            self._listener.close()
            with suppress(OSError):
                os.unlink(self._own.api_socket)


def run(own: Options) -> int:
    """Run the network until its namespace or exit-fd ends. Returns the exit code."""
    logs.setup("", "warning")
    try:
        if shortage := requirements.shortage():
            raise StartError(shortage)
        companion = Companion(own)
        mac = b"" if own.bess else own.mac or _made_up_mac()
        link = "" if own.bess else own.name
        config = config_of(own, mac, link)
        taps = {} if own.bess else {link: open_tap(place(own, mac), own.mtu, _configure(own))}
    except (StartError, ConfigError, NamespaceError) as error:
        logs.fatal(str(error), SLIRP4NETNS.name)
        return FAILED
    try:
        return supervisor.run(config, SLIRP4NETNS, release.version(), taps=taps, companion=companion)
    finally:
        logs.flush()


def _configure(own: Options) -> Callable[[str], None] | None:
    """What --configure does in the namespace, after the interface is up."""
    if not own.configure:
        return None

    def configure(name: str) -> None:
        netlink.set_up("lo")
        netlink.set_address(name, own.address, own.subnet.prefixlen)
        netlink.set_default_route(name, own.gateway)

    return configure


def _made_up_mac() -> bytes:
    """A locally administered address, for which DHCP has the lease."""
    first, *rest = os.urandom(6)
    return bytes((first & 0xFC | 2, *rest))


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
