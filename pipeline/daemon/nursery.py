"""The nursery: a process that forks the successors of workers that died.

The supervisor cannot fork them itself. By then it has threads, an event loop, and secrets, and it has opened
files and sockets that no worker may have. The nursery is forked right after the workers, from the same
memory. It then only waits. So a successor starts as its predecessor did, and shares the same memory pages.

A request to fork (Fork) follows the sockets that the successors need, one message for each (Give). The
nursery reports the process id (Forked), and later how the process ended (Ended). It is the parent of the
successors, and ends with the supervisor. Then they end too.
"""

import asyncio
import errno
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import multiprocess

from pipeline import logs
from pipeline.config.model import Config
from pipeline.daemon import signals
from pipeline.ipc.channel import ControlChannel, close_all
from pipeline.ipc.message import Event, Request
from pipeline.ipc.socket_pair import socket_pair
from pipeline.system import parent_death, process_name

NAME: Final = "nursery"
FORK_TIMEOUT: Final = 5.0
"""Seconds that the nursery has to fork a process."""
FORK_PATIENCE: Final = 2.5
"""Seconds for which a fork is tried again while a limit of the system forbids it. All workers pause."""
FORK_AGAIN: Final = 0.05
_LIMITS: Final = frozenset({errno.EAGAIN, errno.ENOMEM})
_CONTROL: Final = "control"


class NurseryError(Exception):
    """There is no successor. The text says why."""


@dataclass(frozen=True, slots=True)
class Birth:
    """What distinguishes a successor from the first worker of its name.

    incarnation: how many workers of this name have died. slots: the references that living workers hold of
    its slots; None if it owns none.
    """

    incarnation: int = 0
    slots: Mapping[int, int] | None = None


FIRST: Final = Birth()


@dataclass(frozen=True, slots=True)
class Ends:
    """The sockets of the workers of one process: by worker, and for hand-offs by worker and peer."""

    controls: dict[str, socket.socket]
    handoffs: dict[tuple[str, str], socket.socket]


@dataclass(frozen=True, slots=True)
class Give(Request):
    """A socket for the worker ``owner``. peer: the other end's worker; _CONTROL if that is the supervisor."""

    NAME = "give"
    owner: str
    peer: str


@dataclass(frozen=True, slots=True)
class Fork(Request):
    """Fork the process with this name. config: a pickled Config. births: each worker's Birth."""

    NAME = "fork"
    group: str
    config: bytes
    incarnations: dict[str, int]
    slots: dict[str, dict[int, int]]


@dataclass(frozen=True, slots=True)
class Forked(Event):
    """The process is there. pid 0: the system has refused, for the reason ``error``."""

    NAME = "forked"
    group: str
    pid: int
    error: str


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """The process has ended. exitcode: negative for a signal."""

    NAME = "ended"
    pid: int
    exitcode: int


RunChild = Callable[[str, Config, Ends, Mapping[str, Birth]], None]
"""Runs the process with this name until it ends. Called in the child."""


# --- the supervisor's side ------------------------------------------------------------------------


class Successor:
    """A process that the nursery has forked. It has what Process has and the supervisor uses."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self.pid = pid
        self.exitcode: int | None = None
        self._nursery = nursery

    def is_alive(self) -> bool:
        """Whether the process runs, as far as is known."""
        if self.exitcode is None and self._nursery.ended:
            # Nobody reports its end any more.
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                self.exitcode = 0
        return self.exitcode is None

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def join(self, timeout: float = FORK_TIMEOUT) -> None:
        """Wait until the process has ended, at most ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while self.is_alive() and time.monotonic() < until:
            self._nursery.read()
            time.sleep(0.002)

    def _send(self, number: signal.Signals) -> None:
        # The nursery may have reaped it just now. Then the number belongs to nobody, for some time.
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Nursery:
    """The supervisor's end of the nursery."""

    def __init__(self, process: Any, sock: socket.socket) -> None:
        self.process = process
        self._channel = ControlChannel(sock)
        self._forked: dict[str, asyncio.Future[Forked]] = {}
        self._running: dict[int, Successor] = {}
        self._on_end: Callable[[Successor], None] = lambda _process: None
        self._on_lost: Callable[[], None] = lambda: None
        self.ended = False

    @classmethod
    def start(cls, close: Callable[[], None], run: RunChild) -> "Nursery":
        """Fork the nursery. close: called there, closes what it must not have. run: see RunChild."""
        ours, theirs = socket_pair()
        context = multiprocess.get_context("fork")
        process = context.Process(target=_serve, name=NAME, args=(theirs, ours, close, run), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours)

    def watch(self, on_end: Callable[[Successor], None], on_lost: Callable[[], None]) -> None:
        """Call on_end when a successor has ended, and on_lost if the nursery has. Needs a running loop."""
        self._on_end, self._on_lost = on_end, on_lost
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self.read)

    async def fork(self, group: str, config: Config, ends: Ends, births: Mapping[str, Birth]) -> Successor:
        """Fork a process with successors. The sockets stay the caller's. Raises NurseryError."""
        forked: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._forked[group] = forked
        try:
            for owner, sock in ends.controls.items():
                self._channel.send(Give(owner, _CONTROL).encode(), [sock])
            for (owner, peer), sock in ends.handoffs.items():
                self._channel.send(Give(owner, peer).encode(), [sock])
            incarnations = {name: birth.incarnation for name, birth in births.items()}
            slots = {name: dict(birth.slots) for name, birth in births.items() if birth.slots is not None}
            self._channel.send(Fork(group, pickle.dumps(config), incarnations, slots).encode())
            async with asyncio.timeout(FORK_TIMEOUT):
                while self._channel.backlog and not self._channel.flush():
                    await asyncio.sleep(0.005)
                answer = await forked
        except (OSError, TimeoutError) as error:
            raise NurseryError(f"the nursery does not answer: {error or 'timed out'}") from error
        finally:
            self._forked.pop(group, None)
        if not answer.pid:
            raise NurseryError(f"cannot fork: {answer.error}")
        return self._running[answer.pid]

    def read(self) -> None:
        """Handle what the nursery has reported."""
        if self.ended:
            return
        for message, fds in self._channel.receive():
            close_all(fds)
            if message.get("event") == Forked.NAME:
                self._on_forked(Forked.decode(message))
            elif message.get("event") == Ended.NAME:
                ended = Ended.decode(message)
                self._has_ended(self._running.pop(ended.pid, None), ended.exitcode)
        if self._channel.ended:
            self._lost()

    def _on_forked(self, forked: Forked) -> None:
        if forked.pid:
            self._running[forked.pid] = Successor(self, forked.pid)
        waiting = self._forked.get(forked.group)
        if waiting is not None and not waiting.done():
            waiting.set_result(forked)

    def _has_ended(self, process: Successor | None, exitcode: int) -> None:
        if process is not None:
            process.exitcode = exitcode
            self._on_end(process)

    def _lost(self) -> None:
        self.ended = True
        with suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
        for waiting in self._forked.values():
            if not waiting.done():
                waiting.set_exception(OSError("the nursery has ended"))
        self._on_lost()

    def reopen_log(self) -> None:
        """Have the log opened again, which successors will inherit."""
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGUSR1)

    def close(self) -> None:
        """End the nursery. Successors must have ended before."""
        self._on_end, self._on_lost = (lambda _process: None), (lambda: None)
        with suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.close()
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


# --- the process ----------------------------------------------------------------------------------


def _serve(sock: socket.socket, supervisors: socket.socket, close: Callable[[], None], run: RunChild) -> None:
    """Serve requests until the supervisor closes its end."""
    process_name.set_name(f"gvtap-{NAME}")
    supervisors.close()
    close()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    # The terminal sends these to all processes. The nursery ends with the supervisor.
    for number in signals.handled():
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGUSR1, lambda *_: logs.reopen())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1,))
    parent_death.request(int(signal.SIGKILL))
    _Server(ControlChannel(sock), (wake_read, wake_write), run).serve()


class _Server:
    """The nursery in its process."""

    def __init__(self, channel: ControlChannel, wake: tuple[int, int], run: RunChild) -> None:
        self._channel = channel
        self._wake = wake
        self._run = run
        self._given = Ends({}, {})
        self._children: set[int] = set()

    def serve(self) -> None:
        """Serve until the supervisor has closed its end."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        while not self._channel.ended:
            # The time-out is for messages that found no room in the socket.
            poll.poll(1000)
            with suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
            for message, fds in self._channel.receive():
                if message.get("op") == Give.NAME:
                    self._keep(Give.decode(message), socket.socket(fileno=fds[0]))
                elif message.get("op") == Fork.NAME:
                    self._fork(Fork.decode(message))
            self._reap()
            self._channel.flush()

    def _keep(self, give: Give, sock: socket.socket) -> None:
        if give.peer == _CONTROL:
            self._given.controls[give.owner] = sock
        else:
            self._given.handoffs[give.owner, give.peer] = sock

    def _fork(self, ask: Fork) -> None:
        given, self._given = self._given, Ends({}, {})
        reason = ""
        pid = -1
        until = time.monotonic() + FORK_PATIENCE
        while pid < 0:
            try:
                pid = os.fork()
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno not in _LIMITS or time.monotonic() > until:
                    break
                time.sleep(FORK_AGAIN)
                # An end of another successor makes room.
                self._reap()
        if not pid:
            self._be_child(ask, given)
        for sock in (*given.controls.values(), *given.handoffs.values()):
            sock.close()
        if pid > 0:
            self._children.add(pid)
        self._channel.send(Forked(ask.group, max(pid, 0), reason).encode())

    def _be_child(self, ask: Fork, given: Ends) -> None:
        """Run the process. Does not return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in self._wake:
                os.close(fd)
            self._channel.close()
            births = {name: Birth(number, ask.slots.get(name)) for name, number in ask.incarnations.items()}
            self._run(ask.group, pickle.loads(ask.config), given, births)  # of the supervisor
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        for pid in list(self._children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._children.discard(pid)
                self._channel.send(Ended(pid, os.waitstatus_to_exitcode(status)).encode())
