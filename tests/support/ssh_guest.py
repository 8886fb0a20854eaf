"""A guest's ssh server in this process: asyncssh on socket pairs. Its unix sockets are Python functions.

guest = SshGuest(folder); connection = SshConnection(guest.destination("/echo"), guest.dial, log)
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh

from pipeline.control.ssh.destination import Destination

Handler = Callable[[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]], Awaitable[None]]
ADDRESS = "192.168.127.2"


async def echo(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
    """Send everything back, then end too."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def late(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
    """Answer when the client has ended its half."""
    data = await reader.read(-1)
    writer.write(b"late %d" % len(data))
    writer.write_eof()


async def early(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
    """End this half first, and read on. `early_heard` has what it read."""
    writer.write(b"early")
    writer.write_eof()
    early_heard.append(await reader.read(-1))


early_heard: list[bytes] = []


class SshGuest:
    """The server, its keys, and the number of times it was dialled. ``down`` makes it refuse connections."""

    def __init__(self, folder: Path) -> None:
        self.key_path = folder / "key"
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(self.key_path))
        self.authorized = key.export_public_key().decode()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.sockets: dict[str, Handler] = {"/echo": echo, "/late": late, "/early": early}
        self.dials = 0
        self.down = False
        self.silent = False
        self.connections: list[asyncssh.SSHServerConnection] = []
        self._kept: list[socket.socket] = []

    def destination(self, path: str = "/echo", **other: Any) -> Destination:
        """The destination of one of its sockets, for the user "core"."""
        return Destination("core", ADDRESS, path, str(self.key_path), **other)

    async def dial(self, ip: str, port: int) -> socket.socket:
        """Connect to the server."""
        assert (ip, port) == (ADDRESS, 22)
        self.dials += 1
        ours, theirs = socket.socketpair()
        if self.down:
            theirs.close()
        elif self.silent:
            self._kept.append(theirs)
        else:
            asyncio.get_running_loop().create_task(self._serve(theirs))
        ours.setblocking(False)
        return ours

    async def _serve(self, sock: socket.socket) -> None:
        guest = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                guest.connections.append(conn)

            def unix_connection_requested(self, dest_path: str) -> Any:
                return guest.sockets.get(dest_path, False)

        try:
            await asyncssh.run_server(
                sock,
                server_factory=Server,
                server_host_keys=[self.host_key],
                authorized_client_keys=asyncssh.import_authorized_keys(self.authorized),
                encoding=None,
            )
        except (asyncssh.Error, OSError):
            sock.close()

    def reboot(self) -> None:
        """Break all its connections."""
        for connection in self.connections:
            connection.abort()
        self.connections.clear()
