"""Minimal stages and their forked workers, for tests that play the supervisor."""

import os
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from pipeline.config.model import Config
from pipeline.ipc import wake
from pipeline.ipc.channel import ControlChannel
from pipeline.ipc.fabric import Fabric
from pipeline.stages.holdings import Holdings
from pipeline.stages.losses import Losses
from pipeline.stages.worker import Message, Worker
from tests.support.ready import readable

LIMIT = 15.0
"""Seconds after which a test fails, if something has not happened that should happen at once."""


class Toy:
    """A stage that does nothing. The others derive from it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def step(self, now: float) -> int:
        return 0

    def deadline(self) -> float:
        return inf

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        return {"error": f"no request {message.get('op')!r}"}

    def on_released(self, source: str, tags: list[int]) -> None:
        pass

    def reload(self, config: Config) -> None:
        pass

    def slots_held(self) -> Holdings:
        return {}

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        pass

    def held(self) -> dict[str, int]:
        return {"toys": 0}

    def close(self) -> None:
        pass


MakeStage = Callable[[Worker], Toy]


class Child:
    """A forked worker, and the supervisor's end of its control socket."""

    def __init__(self, fabric: Fabric, name: str, make: MakeStage, max_sleep: float = 60.0) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.name, self.bell = name, fabric.bell(name)
        self.fabric = fabric
        self.counters = fabric.counters(name)
        self.pid = os.fork()
        if self.pid == 0:
            status = 9
            try:
                mine.close()
                vars(wake)["MAX_SLEEP"] = max_sleep
                worker = Worker(fabric.ports(name), its)
                worker.run(make(worker))
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        its.close()
        self.channel = ControlChannel(mine)
        self.inbox: deque[tuple[dict[str, Any], list[int]]] = deque()
        self.status: int | None = None

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        self.channel.send(message, fds or [])
        self.bell.notify_control()

    def next_message(self) -> tuple[dict[str, Any], list[int]]:
        until = time.monotonic() + LIMIT
        while not self.inbox:
            ready = readable(self.channel, max(until - time.monotonic(), 0))
            assert ready, f"{self.name} says nothing"
            self.inbox.extend(self.channel.receive())
            assert self.inbox or not self.channel.ended, f"{self.name} is gone"
        return self.inbox.popleft()

    def ask(self, op: str, **more: Any) -> dict[str, Any]:
        self.send({"id": 7, "op": op, **more})
        answer, _ = self.next_message()
        assert answer.pop("id") == 7
        return answer

    def join(self) -> int:
        """Wait at most LIMIT for its end. Returns its exit status; negative for a signal."""
        until = time.monotonic() + LIMIT
        while self.status is None and time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.005)
        assert self.status is not None, f"{self.name} does not end"
        return self.status

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.channel.close()


Spawn = Callable[..., Child]
