"""The common store of a fleet: one key-value bucket of NATS JetStream, over one connection.

A Session is one connection to one server. It ends with the first error, and its owner opens another one to
the next server: nothing is repeated here, and no write waits for a connection. Each request ends within
TIMEOUT, and close() within CLOSE_S, whatever the server and the network do.

The bucket is a stream with one subject for each key. So the store keeps the newest value of each key, gives
each write a number (the *revision*), and takes a write only if the key has the expected revision
(``Nats-Expected-Last-Subject-Sequence``). Over three servers or more it has three replicas.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from pipeline.config.model import Fleet
from pipeline.engines.fleet.entries import NO_KEY
from pipeline.engines.fleet.mirror import Entry

try:
    from nkeys import NkeysError
except ImportError:
    _KEY_ERRORS: tuple[type[Exception], ...] = ()
else:
    _KEY_ERRORS = (NkeysError,)

TIMEOUT: Final = 2.0
"""Seconds until a request that has no answer has failed."""
WATCH_S: Final = 6.0
"""Seconds that a server has to make a watch. It looks at all keys before it answers."""
CLOSE_S: Final = 0.3
"""Seconds that a server has to take the rest at the end of a session."""
PING_S: Final = 5
"""Seconds between two pings. After two without an answer the connection is lost."""
MAX_REPLICAS: Final = 3
MARKER_SECONDS: Final = 3600
"""How old the marker of a deleted key gets before it is removed."""
REMOVE_S: Final = 20.0
"""Seconds that the removal of markers may take."""
MAX_PENDING: Final = 1 << 22
"""Bytes that may wait for a server that does not read."""

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_OPERATION: Final = "KV-Operation"
_DELETED: Final = ("DEL", "PURGE")
_WRONG_REVISION: Final = (10071, 10164)
_DEFAULT_PORT: Final = 4222

_JWT: Final = b"BEGIN NATS USER JWT"
_SEED: Final = b"BEGIN USER NKEY SEED"

ERRORS: Final = (nats.errors.Error, OSError, TimeoutError, ValueError, EOFError)
"""What a session ends with. js_errors are nats.errors too."""


class Access(NamedTuple):
    """How servers are reached: their URLs, and what they ask for."""

    servers: tuple[str, ...]
    bucket: str
    name: str
    credentials: str
    nkey: str
    tls: ssl.SSLContext | None

    @staticmethod
    def of(fleet: Fleet) -> "Access":
        """What the configuration says. Raises OSError, as ssl.SSLError is, for a file without use."""
        scheme, _, hosts = fleet.fleet_servers.partition("://")
        servers = tuple(f"{scheme}://{_with_port(host)}" for host in hosts.split(","))
        tls = None
        if scheme == "tls":
            tls = ssl.create_default_context(cafile=fleet.fleet_ca or None)
            if fleet.fleet_certificate:
                tls.load_cert_chain(fleet.fleet_certificate, fleet.fleet_key)
        return Access(
            servers, fleet.fleet_network, fleet.fleet_host, fleet.fleet_credentials, fleet.fleet_nkey, tls
        )


def _with_port(host: str) -> str:
    return host if host.rpartition("]")[2].count(":") or host.count(":") == 1 else f"{host}:{_DEFAULT_PORT}"


def _check_credentials(path: str) -> None:
    """Raise OSError, ValueError for a file without a JWT or a seed: the client would look on for ever."""
    content = Path(path).read_bytes()
    if _JWT not in content or _SEED not in content:
        raise ValueError("the file with credentials has no JWT, or no seed")


class Session:
    """One connection. ``lost`` is set when it has ended."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client: Client | None = None
        self._js: JetStreamContext | None = None
        self._prefix = f"$KV.{access.bucket}."
        self._stream = f"KV_{access.bucket}"
        self.lost = asyncio.Event()
        self.error: Exception | None = None
        """An error of this program, if one has ended the session."""

    @property
    def js(self) -> JetStreamContext:
        """JetStream of the connection. open() has made it."""
        assert self._js is not None
        return self._js

    async def open(self, server: str) -> None:
        """Connect, and make the bucket if there is none. Raises one of ERRORS."""
        access = self._access
        if access.credentials:
            _check_credentials(access.credentials)

        async def ended() -> None:
            self.lost.set()

        async def failed(error: Exception) -> None:
            """The client calls this for what no call raises. ``lost`` says that the connection has ended.

            While it connects, it would try the same server 60 times, with pauses, for some minutes. An error
            from here ends that.
            """
            if self._js is None:
                raise error

        self._client = Client()
        try:
            await self._connect(self._client, server, ended, failed)
        except _KEY_ERRORS as error:
            raise ValueError(f"the seed cannot be used: {type(error).__name__}") from None
        self._js = self._client.jetstream(timeout=TIMEOUT)
        try:
            await self._js.stream_info(self._stream)
        except js_errors.NotFoundError:
            await self._make_bucket()

    async def _connect(
        self,
        client: Client,
        server: str,
        ended: Callable[[], Awaitable[None]],
        failed: Callable[[Exception], Awaitable[None]],
    ) -> None:
        access = self._access
        await client.connect(
            servers=[server],
            name=f"gvtap-pipeline {access.name}",
            allow_reconnect=False,
            connect_timeout=int(TIMEOUT),
            ping_interval=PING_S,
            max_outstanding_pings=2,
            pending_size=MAX_PENDING,
            tls=access.tls,
            user_credentials=access.credentials or None,
            nkeys_seed=access.nkey or None,
            disconnected_cb=ended,
            closed_cb=ended,
            error_cb=failed,
        )

    async def _make_bucket(self) -> None:
        replicas = MAX_REPLICAS if len(self._access.servers) >= MAX_REPLICAS else 1
        await self.js.create_key_value(
            config=api.KeyValueConfig(bucket=self._access.bucket, history=1, replicas=replicas)
        )

    async def watch(self, on_entry: Callable[[Entry | None], None]) -> None:
        """Report each key as it is, then None, then each write, in order. Raises one of ERRORS."""
        assert self._client is not None
        info = await self.js.stream_info(self._stream)
        complete = info.state.messages == 0
        if complete:
            on_entry(None)

        async def on_message(message: Msg) -> None:
            nonlocal complete
            if self.lost.is_set():
                return
            try:
                on_entry(self._entry(message))
                if not complete and message.metadata.num_pending == 0:
                    complete = True
                    on_entry(None)
            except Exception as error:  # else the client would swallow it
                self.error = error
                self.lost.set()

        await self._client.jetstream(timeout=WATCH_S).subscribe(
            f"{self._prefix}>",
            stream=self._stream,
            cb=on_message,
            ordered_consumer=True,
            deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT,
        )

    def _entry(self, message: Msg) -> Entry:
        headers = message.headers or {}
        gone = headers.get(_OPERATION) in _DELETED
        key = message.subject.removeprefix(self._prefix)
        return Entry(key, None if gone else message.data, message.metadata.sequence.stream)

    async def write(self, key: str, value: bytes | None, revision: int | None) -> bool:
        """Write or delete a key. revision: that it must have; None for any. Returns whether the store did.

        Raises one of ERRORS: then the store may have done it, or may still do it.
        """
        try:
            await self._publish(key, value, revision)
        except js_errors.APIError as error:
            if error.err_code not in _WRONG_REVISION:
                raise
            if revision != NO_KEY:
                return False
            return await self._create_again(key, value)
        return True

    async def _publish(self, key: str, value: bytes | None, revision: int | None) -> None:
        headers: dict[str, str] = {} if revision is None else {_EXPECTED: str(revision)}
        if value is None:
            headers[_OPERATION] = "DEL"
        await self.js.publish(f"{self._prefix}{key}", value or b"", timeout=TIMEOUT, headers=headers)

    async def _create_again(self, key: str, value: bytes | None) -> bool:
        """The key should not exist. Perhaps it has the marker of a deleted one."""
        try:
            found = await self.js.get_last_msg(self._stream, f"{self._prefix}{key}")
            if (found.headers or {}).get(_OPERATION) not in _DELETED:
                return False
            await self._publish(key, value, found.seq)
        except js_errors.NotFoundError:
            return False
        except js_errors.APIError as error:
            if error.err_code not in _WRONG_REVISION:
                raise
            return False
        return True

    async def publish(self, subject: str, value: bytes) -> None:
        """Tell whoever listens. Nobody may. Raises one of ERRORS."""
        if self._client is not None:
            async with asyncio.timeout(TIMEOUT):
                await self._client.publish(subject, value)

    async def remove_markers(self) -> None:
        """Remove old markers of deleted keys, which would stay for ever."""
        async with asyncio.timeout(REMOVE_S):
            bucket = await self.js.key_value(self._access.bucket)
            await bucket.purge_deletes(olderthan=MARKER_SECONDS)

    async def close(self) -> None:
        """End the connection.

        The client waits until the server has taken everything, and swallows cancellations. So it does that on
        its own.
        """
        self.lost.set()
        if self._client is not None:
            closing = asyncio.create_task(self._close(self._client))
            await asyncio.wait({closing}, timeout=CLOSE_S)
            closing.cancel()

    async def _close(self, client: Client) -> None:
        with suppress(*ERRORS):
            await client.close()
