"""The control sockets of one worker: to the supervisor, and to workers with which it exchanges descriptors.

Messages are dicts. A message with an ``id`` is a request of the supervisor, and gets an answer.
"""

import select
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from pipeline.ipc.channel import ControlChannel, HasFileno

Message = dict[str, Any]

Serve = Callable[[Message, list[int]], Message | None]
"""Serves one message with its descriptors. Returns the answer to a request, or None if it is sent later."""

OUTBOX_RETRY: Final = 0.01
"""Seconds until a worker tries again to send a control message for which the socket had no room."""


class ControlSockets:
    """All control sockets of one worker."""

    def __init__(
        self,
        name: str,
        supervisor: socket.socket | None,
        peers: Mapping[str, socket.socket],
        log: structlog.typing.FilteringBoundLogger,
        serve: Serve,
    ) -> None:
        """name: of the worker. supervisor: the worker's end of its control socket; None in some tests."""
        self._name = name
        self._supervisor = ControlChannel(supervisor) if supervisor is not None else None
        self._peers = {peer: ControlChannel(sock) for peer, sock in peers.items()}
        self._log = log
        self._serve_message = serve
        self._poll = select.poll()
        if supervisor is not None:
            self._poll.register(supervisor, select.POLLIN)
        self.lost = 0
        """Messages lost since the start, because no descriptor was left for what they carried."""
        self._lost_reported = 0
        self.ended = False
        """Whether the supervisor has closed its end."""

    @property
    def channels(self) -> list[ControlChannel]:
        """All sockets."""
        own = [self._supervisor] if self._supervisor is not None else []
        return [*own, *self._peers.values()]

    @property
    def backlog(self) -> int:
        """The number of messages that wait until the supervisor reads earlier ones."""
        return self._supervisor.backlog if self._supervisor is not None else 0

    # --- sending ----------------------------------------------------------------------------

    def send_event(self, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Send the supervisor a message. The caller still owns the descriptors.

        Raises OSError if the message has descriptors, must wait, and they cannot be duplicated.
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

    def renew_peer(self, name: str, sock: socket.socket) -> tuple[ControlChannel, ControlChannel]:
        """That worker has a successor, at the other end of this socket. Returns the old channel and the new.

        The caller closes the old one. What it had not sent is lost.
        """
        before, after = self._peers[name], ControlChannel(sock)
        self._peers[name] = after
        return before, after

    def wait(self, seconds: float) -> None:
        """Wait until the supervisor has sent something, at most that long."""
        self._poll.poll(seconds * 1000)

    def send_peer(self, name: str, message: Message, fds: Sequence[int | HasFileno] = ()) -> None:
        """Pass descriptors to another worker. KeyError without a hand-off, OSError as in send_event()."""
        self._peers[name].send(message, fds)

    def peer_backlog(self, name: str) -> int:
        """The number of messages that wait until that worker reads earlier ones."""
        return self._peers[name].backlog

    def flush(self) -> bool:
        """Send waiting messages. Returns whether all are sent."""
        channel = self._supervisor
        done = channel is None or not channel.backlog or channel.flush()
        for peer in self._peers.values():
            if peer.backlog and not peer.flush():
                done = False
        return done

    # --- receiving --------------------------------------------------------------------------

    def serve_supervisor(self) -> None:
        """Serve the messages of the supervisor."""
        if self._supervisor is not None:
            self.serve(self._supervisor)

    def poll_supervisor(self) -> None:
        """Do the same in a worker without a poller. This also finds out if the supervisor closed the socket.

        It polls before it reads, because a read without data costs an exception and a buffer.
        """
        if self._supervisor is not None and self._poll.poll(0):
            self.serve(self._supervisor)

    def serve(self, channel: ControlChannel) -> None:
        """Serve the messages that came on one socket."""
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
        """Log how many messages were lost since the last call, if there are any."""
        if self.lost > self._lost_reported:
            count = self.lost - self._lost_reported
            self._log.warning("no descriptor left for what was handed over", count=count)
            self._lost_reported = self.lost

    def close(self) -> None:
        """Send what can be sent, and close."""
        self.flush()
        for channel in self.channels:
            channel.close()
