"""Serves the requests of the supervisor that every worker knows, and passes all others to the worker's stage.

While the worker *pauses*, its peers count references to slots, so the stage must
not change. Its requests then wait until the pause ends.

=========  =========================================================================================
request    the worker
=========  =========================================================================================
Pause      ends its turn, answers, and then only serves requests (pipeline.stages.loop)
Lost       drops what is in its rings with dead workers, and answers with the references that it holds
Settle     takes the sums of all workers as its counts, and lets its stage end what is lost
HandOver   lets its stage report what another supervisor's workers have to know
Resume     goes on
=========  =========================================================================================
"""

import pickle
import socket
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import Protocol

import structlog

from pipeline.config.model import Config
from pipeline.ipc import healing_messages, message_table, messages
from pipeline.ipc.fabric import WorkerPorts
from pipeline.stages.control_sockets import Message
from pipeline.stages.holdings import Holdings
from pipeline.stages.losses import Losses
from pipeline.stages.protocol import Stage
from pipeline.stages.reporter import Reporter


class Served(Protocol):
    """What is needed from a worker."""

    ports: WorkerPorts
    log: structlog.typing.FilteringBoundLogger
    events: Reporter
    stage: Stage
    paused: bool

    def stop(self) -> None:
        """End after this breath."""
        ...

    def pause(self) -> None:
        """End the turn, and hold until resume()."""
        ...

    def resume(self) -> None:
        """End the pause."""
        ...

    def lose(self, workers: Collection[str]) -> Holdings:
        """See Worker.lose."""
        ...

    def settle(self, losses: Losses, slots: Mapping[int, int] | None, now: float) -> int:
        """See Worker.settle."""
        ...

    def renew_peer(self, name: str, sock: socket.socket) -> None:
        """That worker has a successor, at the other end of this socket."""
        ...

    def reply(self, request: Message, result: Message) -> None:
        """Answer a request."""
        ...


class Requests:
    """Serves the requests to one worker."""

    def __init__(
        self, worker: Served, on_reload: Callable[[Config], object], on_log_file: Callable[[int], object]
    ) -> None:
        """on_reload, on_log_file: see Worker."""
        self._worker = worker
        self._on_reload = on_reload
        self._on_log_file = on_log_file
        self._pause_ask: Message | None = None
        """The request for the pause, until confirm_pause() answers it."""
        self._deferred: list[tuple[Message, list[int]]] = []
        """Messages that came during a pause."""

    def serve(self, message: Message, fds: list[int]) -> Message | None:
        """Serve one message, as Stage.on_control."""
        worker = self._worker
        request = message_table.request_of(message)
        match request:
            case messages.Stop():
                worker.stop()
                return {}
            case messages.Ping():
                return {}
            case messages.Audit():
                return self._audit()
            case messages.Watch() as watch:
                worker.events.watch(watch.kinds)
                return {}
            case messages.LogFile() if fds:
                self._on_log_file(fds[0])
                return {}
            case healing_messages.Pause():
                worker.pause()
                self._pause_ask = message
                return None
            case healing_messages.Lost() as ask if worker.paused:
                return self._lose(ask)
            case healing_messages.Settle() as ask if worker.paused:
                return self._settle(ask, fds)
            case healing_messages.HandOver() if worker.paused:
                getattr(worker.stage, "hand_over", lambda: None)()
                return {}
            case healing_messages.Resume():
                self._resume()
                return {}
        if worker.paused:
            self._deferred.append((message, fds))
            return None
        try:
            if isinstance(request, messages.Reload):
                return self._reload(request)
            return worker.stage.on_control(message, fds)
        except Exception as error:  # one bad request must not end the worker and all its flows
            worker.log.exception("control request failed", op=message.get("op"), error=str(error))
            return {"error": str(error) or type(error).__name__}

    def confirm_pause(self) -> None:
        """The worker does nothing else now. Answers the request for the pause, once."""
        if self._pause_ask is not None:
            ask, self._pause_ask = self._pause_ask, None
            self._worker.reply(ask, {})

    def _reload(self, ask: messages.Reload) -> Message:
        """A refusal is the error of the answer."""
        config = pickle.loads(ask.config)  # of the supervisor, which has forked this process
        assert isinstance(config, Config)
        try:
            self._worker.stage.reload(config)
        except ValueError as error:
            return {"error": str(error)}
        self._on_reload(config)
        self._worker.events.check_levels()
        return {}

    def _lose(self, ask: healing_messages.Lost) -> Message:
        # Only the stage of ingress knows links.
        links: dict[int, int] | None = getattr(self._worker.stage, "links_up", lambda: None)()
        return healing_messages.LostAnswer(self._worker.lose(ask.workers), links).encode()

    def _settle(self, ask: healing_messages.Settle, fds: list[int]) -> Message:
        for peer, fd in zip(ask.peers, fds, strict=True):
            self._worker.renew_peer(peer, socket.socket(fileno=fd))
        lost = self._worker.settle(Losses(tuple(ask.workers), ask.links), ask.slots, monotonic())
        return healing_messages.SettleAnswer(lost).encode()

    def _resume(self) -> None:
        """End the pause, and serve what has waited for that."""
        if not self._worker.paused:
            return
        self._worker.resume()
        deferred, self._deferred = self._deferred, []
        for message, fds in deferred:
            result = self.serve(message, fds)
            if result is not None and "id" in message:
                self._worker.reply(message, result)

    def _audit(self) -> Message:
        """What the stage holds, and whether the pool is consistent."""
        pool = self._worker.ports.pool
        held = self._worker.stage.held()
        if pool is None:
            return messages.AuditAnswer(0, 0, 0, None, held).encode()
        return messages.AuditAnswer(pool.count, pool.free_count, pool.refs_out, pool.audit(), held).encode()
