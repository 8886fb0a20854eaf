"""An ssh connection to a guest through the virtual network.

The first client opens it. The next client after a loss opens it again.
The listen worker dials the guest and gets one end of a socketpair. asyncssh speaks on the other end. All
clients of one destination share the connection; each has a channel to the guest's unix socket
(direct-streamlocal@openssh.com). Each attempt reads the keys again. The host's ssh configuration and agent
are not used. The guest's host key is checked only if the user asks for it and ~/.ssh/known_hosts has it, as
in gvproxy.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import asyncssh
import structlog

from pipeline.control.ssh.destination import PORT, Destination, SshError
from pipeline.control.threads import Threads
from pipeline.control.workers import Request, RequestError
from pipeline.go.flags import quote
from pipeline.ipc import forward_messages
from pipeline.system import small_file

MAX_KEY: Final = 64 * 1024
"""Bytes of a file with a key."""
KNOWN_HOSTS: Final = "~/.ssh/known_hosts"
PATIENCE: Final = 60.0
"""Seconds that a client waits for a guest that does not answer. A slow guest takes that long to boot."""
ATTEMPT_TIMEOUT: Final = 10.0
"""Seconds from dialling until channels can be opened."""
CHANNEL_TIMEOUT: Final = 10.0
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 1.0
"""Seconds between two attempts: doubled from the first to the last."""
KEEPALIVE: Final = 15.0
KEEPALIVE_COUNT: Final = 3
CHANNEL_TRIES: Final = 3
CHANNEL_PAUSE: Final = 0.2
"""Tries to open a socket that is missing in the guest, and seconds between them."""

Dial = Callable[[str, int], Awaitable[socket.socket]]
"""Opens a connection to a guest's IP address and port. The connection ends if the guest refuses it."""
Streams = tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]


def read_key(path: str, passphrase: str = "") -> asyncssh.SSHKey:
    """The private key in a regular file (OpenSSH or PEM). Raises SshError in the words of gvproxy. Blocks."""
    try:
        return asyncssh.import_private_key(small_file.read(path, MAX_KEY), passphrase or None)
    except OSError as error:
        words = os.strerror(error.errno or 0).lower()
        raise SshError(f"failed to parse identity {quote(path)}: open {path}: {words}") from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, small_file.FileError) as error:
        raise SshError(f"failed to parse identity {quote(path)}: {error}") from error


def known_hosts(to: Destination, path: str) -> asyncssh.SSHKnownHosts:
    """The entries of a known_hosts file for the guest. Raises SshError if there are none. Blocks."""
    try:
        known = asyncssh.import_known_hosts(small_file.read(path).decode())
        # The port as asyncssh itself asks for it when it connects.
        entries = asyncssh.match_known_hosts(known, to.ip, "", to.port if to.port != PORT else None)
    except OSError as error:
        raise SshError(f"open {path}: {os.strerror(error.errno or 0).lower()}") from error
    except (ValueError, small_file.FileError) as error:
        raise SshError(f"{path}: {error}") from error
    if not any(entries):
        raise SshError(f"{path} has no entry for {to.ip} port {to.port}")
    return known


def dialler(request: Request) -> Dial:
    """A Dial that connects through the listen worker, as /tunnel does."""

    async def dial(ip: str, port: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            await request("listen", forward_messages.Tunnel(ip, port), [theirs])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return ours

    return dial


class _Held:
    """One ssh connection, and the number of channels that are open on it."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection = connection
        self.channels = 0
        self.retired = False

    def release(self) -> None:
        """A channel is over. A retired connection ends with its last channel."""
        self.channels -= 1
        if self.retired and not self.channels:
            self.connection.close()


class SshConnection:
    """The shared connection of one destination, in one event loop. It opens nothing before open()."""

    def __init__(
        self,
        destination: Destination,
        dial: Dial,
        log: structlog.typing.FilteringBoundLogger,
        patience: float = PATIENCE,
        threads: Threads | None = None,
    ) -> None:
        """threads: where keys are read."""
        self._threads = threads or Threads(1)
        self._to = destination
        self._dial = dial
        self._log = log.bind(ssh=f"{destination.user}@{destination.ip}:{destination.port}")
        self._patience = patience
        self._held: _Held | None = None
        self._attempts: asyncio.Task[_Held] | None = None
        self._waiting = 0

    async def open(self) -> tuple[Streams, Callable[[], None]]:
        """A channel to the guest's socket, and a function to call when it is over. Raises SshError.

        Waits up to `patience` for a guest that does not answer. A connection that turns out to be dead (the
        guest was rebooted) is replaced.
        """
        deadline = asyncio.get_running_loop().time() + self._patience
        refused = 0
        while True:
            held = await self._connected(deadline)
            held.channels += 1
            try:
                async with asyncio.timeout(CHANNEL_TIMEOUT):
                    streams = await held.connection.open_unix_connection(self._to.path, encoding=None)
                return streams, held.release
            except asyncssh.ChannelOpenError as error:
                held.release()
                if not held.connection.is_closed():
                    refused += 1
                    if refused == CHANNEL_TRIES:
                        raise SshError(f"the guest refuses {self._to.path}: {error.reason}") from error
                    await asyncio.sleep(CHANNEL_PAUSE)
            except (asyncssh.Error, OSError, TimeoutError) as error:
                held.release()
                self._log.info("ssh connection lost", error=str(error) or "no answer")
                self._retire(held)
            except BaseException:
                held.release()
                raise
            if asyncio.get_running_loop().time() >= deadline:
                raise SshError(f"no channel to {self._to.path} within {self._patience:g} s")

    async def close(self) -> None:
        """End the connection and all its channels."""
        if self._attempts is not None:
            self._attempts.cancel()
            await asyncio.gather(self._attempts, return_exceptions=True)
        if self._held is not None:
            self._held.connection.abort()
            with suppress(asyncssh.Error, OSError):
                await self._held.connection.wait_closed()
            self._held = None

    def _retire(self, held: _Held) -> None:
        """Open no more channels on a connection. Open ones last until ssh finds that it is dead."""
        held.retired = True
        if not held.channels:
            held.connection.abort()
        if self._held is held:
            self._held = None

    async def _connected(self, deadline: float) -> _Held:
        """The connection, or a new one if it is dead. Attempts go on while a client waits."""
        if self._held is not None:
            if not self._held.connection.is_closed():
                return self._held
            self._held = None
        if self._attempts is None or self._attempts.done():
            self._attempts = asyncio.get_running_loop().create_task(self._attempt())
        attempts = self._attempts
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(attempts)
        except TimeoutError:
            raise SshError(f"the guest did not answer within {self._patience:g} s") from None
        finally:
            self._waiting -= 1
            if not self._waiting and not attempts.done():
                attempts.cancel()

    async def _attempt(self) -> _Held:
        pause = FIRST_PAUSE
        known = await self._known_hosts()
        while True:
            try:
                held = self._held = _Held(await self._connect(known))
                self._log.info("ssh connection opened")
                return held
            except (asyncssh.PermissionDenied, asyncssh.HostKeyNotVerifiable) as error:
                # The guest answers. Waiting would not change its answer.
                raise SshError(f"the guest refuses {self._to.user}: {error.reason}") from error
            except ValueError as error:
                # asyncssh does not take the user's name or the password (SASLprep, RFC 4013).
                raise SshError(f"the guest cannot be asked: {error}") from error
            except (asyncssh.Error, RequestError, OSError, TimeoutError) as error:
                if pause == FIRST_PAUSE:
                    self._log.info("guest does not answer ssh yet", error=str(error) or "silence")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)

    async def _known_hosts(self) -> asyncssh.SSHKnownHosts | None:
        if not self._to.secure:
            return None
        try:
            path = os.path.expanduser(KNOWN_HOSTS)
            return await self._threads.run(lambda: known_hosts(self._to, path))
        except SshError as error:
            self._log.warning("the guest's host key is not checked", error=str(error))
            return None

    async def _connect(self, known: asyncssh.SSHKnownHosts | None) -> asyncssh.SSHClientConnection:
        to = self._to
        key = await self._threads.run(lambda: read_key(to.key, to.passphrase))
        sock = await self._dial(to.ip, to.port)
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                return await asyncssh.connect(
                    to.ip,
                    to.port,
                    sock=sock,
                    config=None,
                    username=to.user,
                    client_keys=[key],
                    password=to.password or None,
                    agent_path=None,
                    known_hosts=known,
                    keepalive_interval=KEEPALIVE,
                    keepalive_count_max=KEEPALIVE_COUNT,
                )
        except BaseException:
            sock.close()
            raise
