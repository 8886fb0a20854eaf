"""The supervisor's side of the control sockets: requests with answers, and the workers' events.

A request is a map with an ``id``. Its answer has the same ``id``, and ``error`` if the worker refused. A map
with ``event`` and without ``id`` is an event. Descriptors travel with both. pipeline.ipc.channel has the wire
form. This module connects it to asyncio. It starts and stops no workers.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from pipeline.control.repeated import Repeated
from pipeline.ipc import messages
from pipeline.ipc.channel import ControlChannel, HasFileno, close_all

TIMEOUT: Final = 5.0
"""Seconds until a worker that does not answer counts as failed."""
Message = dict[str, object]
"""A message as it came (see pipeline.ipc.messages)."""
OnEvent = Callable[[str, Message, list[int]], None]
"""Called with the worker's name, the event, and descriptors, which the function owns then."""


class RequestError(Exception):
    """There is no answer: the worker is gone, or it did not answer in time."""


class RefusedError(RequestError):
    """The worker refused the request, with this text."""


class GoneError(RequestError):
    """The worker has died. It has a successor soon, with the settings that hold then."""


class Request(Protocol):
    """A function that asks one worker, such as Channels.request. The descriptors stay the caller's."""

    async def __call__(
        self, worker: str, op: messages.Request, fds: Sequence[int | HasFileno] = ()
    ) -> Message:
        """The answer's map. Raises RefusedError with the worker's text, RequestError without an answer."""
        ...


class Channel:
    """One worker's control socket. It owns the socket, and needs a running event loop.

    notify is called after each message is sent: a worker that sleeps on a semaphore does not see its socket.
    on_end is called once, when the worker's end is closed.
    """

    def __init__(
        self,
        worker: str,
        sock: socket.socket,
        on_event: OnEvent,
        log: structlog.typing.FilteringBoundLogger,
        *,
        notify: Callable[[], None] | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        self.worker = worker
        self._wire = ControlChannel(sock)
        self._fd = sock.fileno()
        self._on_event = on_event
        self._log = log
        self._notify = notify
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, asyncio.Future[Message]] = {}
        self._next_id = 0
        self._lost = Repeated(log, "no descriptor left for an event")
        self._writing = False
        self._open = True
        self._loop.add_reader(self._fd, self._read)

    async def request(
        self, op: messages.Request, fds: Sequence[int | HasFileno] = (), timeout: float = TIMEOUT
    ) -> Message:
        """The map of the worker's answer; errors as of Request. The descriptors stay the caller's."""
        number = self._next_id = self._next_id + 1
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._pending[number] = answer
        try:
            self._send({"id": number, **op.encode()}, fds)
            async with asyncio.timeout(timeout):
                message = await answer
        except TimeoutError:
            text = f"worker {self.worker} did not answer {op.NAME} within {timeout:g} s"
            raise RequestError(text) from None
        finally:
            del self._pending[number]
        if "error" in message:
            raise RefusedError(str(message["error"]))
        return message

    def send(self, message: messages.Request, fds: Sequence[int | HasFileno] = ()) -> None:
        """Send a request without an answer. RequestError if the worker is gone or the message is too long."""
        self._send(message.encode(), fds)

    def _send(self, message: Message, fds: Sequence[int | HasFileno]) -> None:
        if not self._open:
            raise GoneError(f"worker {self.worker} is gone")
        try:
            self._wire.send(message, fds)
        except (OSError, ValueError, TypeError, OverflowError) as error:
            raise RequestError(f"worker {self.worker}: cannot send {message.get('op')}: {error}") from error
        if self._wire.backlog and not self._writing:
            self._loop.add_writer(self._fd, self._flush)
            self._writing = True
        if self._notify is not None:
            self._notify()

    def finish(self) -> None:
        """The worker is dead: handle what it has still sent, then forget it."""
        if self._open:
            self._read()
        self.close()

    def close(self) -> None:
        """Forget the worker: every pending request fails."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._wire.close()
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(GoneError(f"worker {self.worker} is gone"))

    def receive(self) -> None:
        """Deliver what has come."""
        if self._open:
            self._read()

    def _flush(self) -> None:
        if self._wire.flush():
            self._loop.remove_writer(self._fd)
            self._writing = False
        if self._notify is not None:
            self._notify()

    def _read(self) -> None:
        try:
            messages = self._wire.receive()
        except (ValueError, OSError) as error:
            self._log.error("control message cannot be read", worker=self.worker, error=str(error))
            messages = []
        for message in self._wire.take_lost():
            self._on_lost(message)
        for message, fds in messages:
            if "event" in message:
                self._deliver(message, fds)
            else:
                self._answer(message, fds)
        if self._wire.ended:
            self.close()
            if self._on_end is not None:
                self._on_end(self.worker)

    def _on_lost(self, message: Message) -> None:
        """A message came without its descriptors: this process has reached its limit of them."""
        if "event" not in message:
            self._answer({**message, "error": "no descriptor left for the answer"}, [])
        else:
            self._lost.warning(self._loop.time(), worker=self.worker, lost=message["event"])

    def _deliver(self, message: Message, fds: list[int]) -> None:
        try:
            self._on_event(self.worker, message, fds)
        except Exception as error:  # an event must not end the supervisor and with it all guests
            self._log.exception(
                "event failed", worker=self.worker, failed=message.get("event"), error=str(error)
            )

    def _answer(self, message: Message, fds: list[int]) -> None:
        close_all(fds)
        number = message.get("id")
        answer = self._pending.get(number) if isinstance(number, int) else None
        if answer is None or answer.done():
            self._log.warning("answer came too late", worker=self.worker, id=message.get("id"))
            return
        answer.set_result(message)


class Channels:
    """All workers' channels by name."""

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self.channels = dict(channels)

    async def request(
        self, worker: str, op: messages.Request, fds: Sequence[int | HasFileno] = (), timeout: float = TIMEOUT
    ) -> Message:
        """Channel.request of that worker. RequestError if there is no such worker."""
        channel = self.channels.get(worker)
        if channel is None:
            raise RequestError(f"there is no worker {worker}")
        return await channel.request(op, fds, timeout)

    def replace(self, channel: Channel) -> None:
        """A worker has a successor, to which this channel leads."""
        self.channels[channel.worker].close()
        self.channels[channel.worker] = channel

    def send_all(self, op: messages.Request, fds: Sequence[int | HasFileno] = ()) -> None:
        """Send a request without an answer to all workers, except those that are gone."""
        for channel in self.channels.values():
            with suppress(RequestError):
                channel.send(op, fds)

    def receive(self) -> None:
        """Deliver what the workers have sent before they ended."""
        for channel in self.channels.values():
            channel.receive()

    def close(self) -> None:
        """Close all."""
        for channel in self.channels.values():
            channel.close()
