"""The methods of Network for asyncio (docs/client.md).

async with await AsyncNetwork.start(policy={"default": "deny"}) as network:
    async with network.events("flow-refused") as events:
        async for event in events:
            ...
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp

from pipeline.client import api, scripts
from pipeline.client.answers import Approval, Event, Explanation, Flow, Forward, Guest, Policy, QuotaUse
from pipeline.client.api import MAX_ANSWER, MAX_TEXT, TIMEOUT, ApiError
from pipeline.client.child import LOOK_SECONDS, START_SECONDS, Child, OfChild
from pipeline.client.network import (
    APPROVAL_ASKED,
    NO_SETTINGS,
    SILENCE_SECONDS,
    Scope,
    find_api,
    start_child,
)
from pipeline.client.records import Record
from pipeline.client.scripts import Connections
from pipeline.config.forward_words import WordError
from pipeline.links.addresses import unix_path

_T = TypeVar("_T")
_STREAM: Final = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=SILENCE_SECONDS)
_ONCE: Final = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)


class AsyncNetwork(OfChild):
    """A network whose daemon runs. Use it with ``async with``: a child ends with the block."""

    def __init__(self, url: str, token: str = "", child: Child | None = None) -> None:
        """url: of the API, ``unix:///path`` or ``tcp://host:port``. Needs a running event loop."""
        # It also checks the URL.
        self.url = api.Api(url, token).url
        """The address of the API."""
        path = unix_path(url) if url.startswith("unix:") else ""
        # The daemon closes idle connections, so none is kept.
        connector = (
            aiohttp.UnixConnector(path, force_close=True) if path else aiohttp.TCPConnector(force_close=True)
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._base = "http://localhost" if path else url.replace("tcp", "http", 1)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=_ONCE)
        self._child = child

    @classmethod
    async def start(
        cls,
        *,
        policy: Policy | None = None,
        config: Mapping[str, object] = NO_SETTINGS,
        flags: Sequence[str] = (),
        seconds: float = START_SECONDS,
    ) -> Self:
        """As Network.start()."""
        child = await asyncio.to_thread(start_child, policy, config, flags)
        network = cls(child.url, child=child)
        try:
            await network.wait_until_ready(seconds)
        except BaseException:
            await network.close()
            raise
        return network

    @classmethod
    async def find(cls, url: str = "", *, config: str = "", token_file: str = "") -> Self:
        """As Network.find()."""
        found = await asyncio.to_thread(find_api, url, config, token_file)
        network = cls(found.url, found.token)
        try:
            await network.version()
        except BaseException:
            await network.close()
            raise
        return network

    async def close(self) -> None:
        """End the connections, and the network if it is a child."""
        await self._session.close()
        if self._child is not None:
            await asyncio.to_thread(self._child.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """As Network.wait_until_ready()."""
        deadline = time.monotonic() + seconds
        while True:
            if self._child is not None:
                self._child.check()
            try:
                await self._run(scripts.version())
            except api.RefusedError:
                raise
            except ApiError:
                if time.monotonic() > deadline:
                    raise
            else:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def version(self) -> str:
        """As Network.version()."""
        return await self._run(scripts.version())

    async def status(self) -> Mapping[str, object]:
        """As Network.status()."""
        return await self._run(scripts.status())

    async def guests(self) -> list[Guest]:
        """As Network.guests()."""
        return await self._run(scripts.guests())

    async def leases(self) -> dict[str, str]:
        """As Network.leases()."""
        return await self._run(scripts.leases())

    async def flows(
        self, *, guest: str = "", protocol: str = "", host: str = "", port: int = 0, limit: int = 1000
    ) -> list[Flow]:
        """As Network.flows()."""
        return await self._run(scripts.flows(guest, protocol, host, port, limit))

    async def end_flow(self, flow: Flow | str) -> None:
        """As Network.end_flow()."""
        await self._run(scripts.end_flow(flow))

    async def forwards(self) -> list[Forward]:
        """As Network.forwards()."""
        return await self._run(scripts.forwards())

    async def expose(self, word: str) -> list[Forward]:
        """As Network.expose()."""
        return await self._run(scripts.expose(word))

    async def unexpose(self, word: str) -> None:
        """As Network.unexpose()."""
        await self._run(scripts.unexpose(word))

    async def add_zone(self, name: str, hosts: Mapping[str, str]) -> None:
        """As Network.add_zone()."""
        await self._run(scripts.add_zone(name, hosts))

    async def policy(self) -> Policy:
        """As Network.policy()."""
        return await self._run(scripts.policy())

    async def set_policy(self, policy: Policy, *, connections: Connections = "cut") -> int:
        """As Network.set_policy()."""
        return await self._run(scripts.set_policy("PUT", policy, connections))

    async def patch_policy(self, change: Policy, *, connections: Connections = "cut") -> int:
        """As Network.patch_policy()."""
        return await self._run(scripts.set_policy("PATCH", change, connections))

    async def explain(
        self, guest: str, host: str, port: int = 0, *, protocol: str = "tcp", name: str = ""
    ) -> Explanation:
        """As Network.explain()."""
        return await self._run(scripts.explain(guest, host, port, protocol, name))

    async def quotas(self) -> list[QuotaUse]:
        """As Network.quotas()."""
        return await self._run(scripts.quotas())

    async def reset_quotas(self, guest: str = "", per: str = "") -> int:
        """As Network.reset_quotas()."""
        return await self._run(scripts.reset_quotas(guest, per))

    async def waiting(self) -> list[Approval]:
        """As Network.waiting()."""
        return await self._run(scripts.approvals())

    @asynccontextmanager
    async def approvals(self) -> AsyncIterator[AsyncIterator[Approval]]:
        """The flows that wait for an approval, now and within the block."""
        async with self.events(APPROVAL_ASKED) as events:
            yield self._approvals(await self.waiting(), events)

    async def _approvals(
        self, waiting: Sequence[Approval], events: AsyncIterator[Event]
    ) -> AsyncIterator[Approval]:
        for approval in waiting:
            yield approval
        known = {approval.id for approval in waiting}
        async for event in events:
            approval = Approval.of(Record(dict(event.fields)))
            if approval.id not in known:
                yield approval

    async def decide(self, approval: Approval | str, allow: bool, scope: Scope = "once") -> None:
        """As Network.decide()."""
        await self._run(scripts.decide(approval, allow=allow, scope=scope))

    @asynccontextmanager
    async def events(self, *kinds: str) -> AsyncIterator[AsyncIterator[Event]]:
        """What happens within the block. kinds: names of docs/events.md, none for all of them."""
        call = scripts.events(kinds)
        try:
            async with self._session.get(self._base + call.target, timeout=_STREAM) as response:
                await self._check(response, call.target)
                yield self._events(response)
        except aiohttp.ClientError as error:
            raise self._gone(error) from error

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
        try:
            async for line in response.content:
                if line.startswith(b"data:") and line.endswith(b"\n"):
                    yield Event.of(json.loads(line.removeprefix(b"data:")))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiError(f"the daemon sends no more events: {error}") from error

    async def _run(self, script: scripts.Script[_T]) -> _T:
        """Make the requests of a script."""
        try:
            call = next(script)
            while True:
                try:
                    answer = await self._ask(call)
                except ApiError as error:
                    call = script.throw(error)
                else:
                    call = script.send(answer)
        except StopIteration as stop:
            result: _T = stop.value
            return result
        except WordError as error:
            raise ApiError(str(error)) from None

    async def _ask(self, call: scripts.Call) -> object:
        body = None if call.body is None else json.dumps(call.body)
        try:
            async with self._session.request(call.method, self._base + call.target, data=body) as response:
                await self._check(response, call.target)
                text = await _read(response, MAX_ANSWER)
                found: object = json.loads(text) if text else None
                return found
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._gone(error) from error
        except ValueError as error:
            raise ApiError(f"{self.url}{call.target} has no JSON: {error}") from error

    async def _check(self, response: aiohttp.ClientResponse, target: str) -> None:
        """Raise RefusedError unless the status is 200."""
        if response.status != 200:
            text = (await _read(response, MAX_TEXT)).decode("utf-8", "replace").strip()
            words = text or f"{self.url} answers {response.status} {response.reason}"
            raise api.refusal(self.url, target, response.status, words)

    def _gone(self, error: Exception) -> ApiError:
        return ApiError(f"cannot ask the daemon at {self.url}: {api.cause(error)}")


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body. Raises ApiError if it is longer than this limit."""
    text = b""
    async for piece in response.content.iter_any():
        text += piece
        if len(text) > limit:
            raise ApiError(f"the answer is longer than {limit} bytes")
    return text
