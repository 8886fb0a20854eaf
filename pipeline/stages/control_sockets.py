"""The control sockets of one worker: to the supervisor, and to workers that hand descriptors over.

Messages are dicts. One with an ``id`` is a request of the supervisor, and is answered.
"""

import select
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from pipeline.ipc.channel import ControlChannel, HasFileno

Message = dict[str, Any]

Serve = Callable[[Message, list[int]], Message | None]
"""Serves one message with its descriptors. A result is the answer to a request; None if it comes later."""

OUTBOX_RETRY: Final = 0.01
"""Seconds until a control message that the socket did not take is tried again."""


class ControlSockets:
    """The sockets, what was sent and waits, and what was lost."""

    def __init__(
        self,
        name: str,
        supervisor: socket.socket | None,
        peers: Mapping[str, socket.socket],
        log: structlog.typing.FilteringBoundLogger,
        serve: Serve,
    ) -> None:
        """name: of the worker. supervisor: its end of the control socket, None where tests have none."""
        self._name = name
        self._supervisor = ControlChannel(supervisor) if supervisor is not None else None
        self._peers = {peer: ControlChannel(sock) for peer, sock in peers.items()}
        self._log = log
        self._serve_message = serve
        self._poll = select.poll()
        if supervisor is not None:
            self._poll.register(supervisor, select.POLLIN)
        self.lost = 0
        """Messages lost since the start because no descriptor was left for what they carried."""
        self._lost_reported = 0
        self.ended = False
        """Whether the supervisor has closed its end."""

    @property
    def channels(self) -> list[ControlChannel]:
        """All of them."""
        own = [self._supervisor] if self._supervisor is not None else []
        return [*own, *self._peers.values()]

    @property
    def backlog(self) -> int:
        """Messages that wait for the supervisor to read those before."""
        return self._supervisor.backlog if self._supervisor is not None else 0

    # --- sending ----------------------------------------------------------------------------

    def send_event(self, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Send the supervisor a message. The descriptors stay the caller's to close.

        OSError if there are descriptors and none is left to keep them until the socket takes the message.
        """
        if self._supervisor is not None:
            self._supervisor.send(message, fds)

    def reply(self, request: Message, result: Message) -> None:
        """Answer a request."""
        answer = {"id": request["id"], **result}
        if "error" not in answer:
            answer["ok"] = True
        try:
            self.send_event(answer)
        except OSError as error:
            # The answer is too long for any message, or no descriptor is left for its file.
            self._log.warning("answer cannot be sent", op=request.get("op"), error=str(error))
            self.send_event({"id": request["id"], "error": f"answer cannot be sent: {error.strerror}"})

    def send_peer(self, name: str, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Hand descriptors to another worker. KeyError without hand-off; OSError as of send_event()."""
        self._peers[name].send(message, fds)

    def peer_backlog(self, name: str) -> int:
        """Messages that wait because that worker has not read those before."""
        return self._peers[name].backlog

    def flush(self) -> bool:
        """Send messages that waited for their socket. Returns whether none waits any more."""
        channel = self._supervisor
        done = channel is None or not channel.backlog or channel.flush()
        for peer in self._peers.values():
            if peer.backlog and not peer.flush():
                done = False
        return done

    # --- receiving --------------------------------------------------------------------------

    def serve_supervisor(self) -> None:
        """Serve what the supervisor has sent."""
        if self._supervisor is not None:
            self.serve(self._supervisor)

    def poll_supervisor(self) -> None:
        """The same, for a worker without a poller: this also finds a socket that was closed.

        It asks first: a read that finds nothing costs an exception and a buffer.
        """
        if self._supervisor is not None and self._poll.poll(0):
            self.serve(self._supervisor)

    def serve(self, channel: ControlChannel) -> None:
        """Serve what came on one socket."""
        asks = channel is self._supervisor
        for message, fds in channel.receive():
            result = self._serve_message(message, fds)
            if result is not None and "id" in message and asks:
                self.reply(message, result)
        for message in channel.take_lost():
            self.lost += 1
            if "id" in message and asks:
                self.reply(message, {"error": f"worker {self._name} has no descriptor left"})
        if channel.ended and asks:
            self.ended = True

    def log_lost(self) -> None:
        """Log how many messages were lost since the last call, if any were."""
        if self.lost > self._lost_reported:
            count = self.lost - self._lost_reported
            self._log.warning("no descriptor left for what was handed over", count=count)
            self._lost_reported = self.lost

    def close(self) -> None:
        """Send what can be sent, and close."""
        self.flush()
        for channel in self.channels:
            channel.close()
