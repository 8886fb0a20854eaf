"""The line between an old supervisor and its successor: messages of ipc.handover_messages, with descriptors.

Messages wait here while the socket is full, so their number does not matter, nor do the descriptors that one
system call carries. The old supervisor has an event loop and must not block. Its successor has nothing else
to do until it has everything, so it waits.
"""

import asyncio
import select
import socket
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Final, NamedTuple

from pipeline.ipc import handover_messages
from pipeline.ipc.channel import ControlChannel, HasFileno, close_all
from pipeline.ipc.handover_messages import HandoverMessage
from pipeline.ipc.message import MessageError

LOOK_S: Final = 0.005
"""Seconds between two looks while messages wait for the socket."""


class LineError(Exception):
    """The other side is gone, is silent, or has sent something wrong. The text says which."""


class Letter(NamedTuple):
    """A message and its descriptors, which the receiver owns."""

    message: HandoverMessage
    fds: list[int]


class Line:
    """One end. It owns the socket."""

    def __init__(self, sock: socket.socket, other: str) -> None:
        """other: what texts call the other side."""
        self._channel = ControlChannel(sock)
        self._other = other
        self._letters: deque[Letter] = deque()

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._channel.fileno()

    @property
    def ended(self) -> bool:
        """Whether the other end is closed, as far as this one knows."""
        return self._channel.ended

    def send(self, message: HandoverMessage, fds: Sequence[int | HasFileno] = ()) -> None:
        """Send a message, now or with flush(). The descriptors stay the caller's. Raises OSError."""
        self._channel.send(message.encode(), fds)

    def wait_for(self, seconds: float) -> Letter:
        """The next message. Blocks. Raises LineError."""
        until = monotonic() + seconds
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while (letter := self._next()) is None:
            if monotonic() >= until:
                raise self._silent(seconds)
            self._channel.flush()
            step = LOOK_S if self._channel.backlog else until - monotonic()
            poll.poll(max(step, 0) * 1000)
        return letter

    async def expect(self, seconds: float) -> Letter:
        """The same for an event loop."""
        until = monotonic() + seconds
        loop = asyncio.get_running_loop()
        while (letter := self._next()) is None:
            if monotonic() >= until:
                raise self._silent(seconds)
            self._channel.flush()
            arrived = loop.create_future()
            loop.add_reader(self._channel.fileno(), _arrive, arrived)
            step = LOOK_S if self._channel.backlog else until - monotonic()
            try:
                await asyncio.wait((arrived,), timeout=max(step, 0))
            finally:
                loop.remove_reader(self._channel.fileno())
        return letter

    def flush_all(self, seconds: float) -> None:
        """Send all messages that wait. Blocks. They may be lost if that takes longer."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLOUT)
        until = monotonic() + seconds
        while not self._channel.flush() and not self._channel.ended and monotonic() < until:
            poll.poll(LOOK_S * 1000)

    def _silent(self, seconds: float) -> LineError:
        return LineError(f"{self._other} does not answer within {seconds:g} s")

    def _next(self) -> Letter | None:
        """The next message that has come. Raises LineError."""
        if not self._letters:
            self._receive()
        if self._letters:
            return self._letters.popleft()
        if self._channel.ended:
            raise LineError(f"{self._other} has ended")
        return None

    def _receive(self) -> None:
        try:
            found = self._channel.receive()
        except (ValueError, OSError) as error:
            raise LineError(f"{self._other} has sent something that is no message: {error}") from error
        if self._channel.take_lost():
            raise LineError("no descriptor is left for those of a message")
        for at, (packet, fds) in enumerate(found):
            try:
                message = handover_messages.decode(packet)
                handover_messages.checked(message, len(fds))
            except (MessageError, TypeError, AttributeError) as error:
                for _, others in found[at:]:
                    close_all(others)
                raise LineError(f"{self._other} has sent a wrong message: {error}") from error
            if message is None:
                close_all(fds)
            else:
                self._letters.append(Letter(message, fds))

    def close(self) -> None:
        """Close the socket, and the descriptors of messages that nobody has read."""
        for letter in self._letters:
            close_all(letter.fds)
        self._letters.clear()
        self._channel.close()


def _arrive(arrived: "asyncio.Future[None]") -> None:
    if not arrived.done():
        arrived.set_result(None)
