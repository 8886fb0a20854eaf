"""Replaces the running program by a new version of itself (``gvtap-pipeline restart``, SIGUSR2).

A *successor* is started with the same command line. So it has the installed version, and reads the present
configuration. It gets what must not end: sockets, links, forwards, leases. Its workers are new.

=========  ===========================================================================================
step       what happens
=========  ===========================================================================================
start      The successor gets all sockets and files that its workers' processes must know (Place). It reads
           its configuration, forks workers, and reports Ready. Guests are served as before.
pause      All workers of the old supervisor pause between two breaths. Nothing is read from guests.
state      The successor gets forwards, zones, the policy, leases, and the place in each stream.
running    The successor has bound what it lacked, and reports Running. It has touched nothing yet.
yours      The old supervisor lets go (Yours). The successor reads on in each stream at the same byte.
=========  ===========================================================================================

Whatever goes wrong before Yours, the successor is killed, and the workers go on. Connections of guests live
in workers. They are reset: by the old workers towards hosts, by the new ones towards guests.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

import structlog

from pipeline.config.model import Logging
from pipeline.control.plane import ControlPlane
from pipeline.control.restart_error import RestartError
from pipeline.daemon.endpoints import API, Endpoints
from pipeline.daemon.healing import Healer
from pipeline.daemon.heir import Heir, HeirError
from pipeline.daemon.own_files import OwnFiles
from pipeline.ipc.handover_messages import (
    CAPTURE,
    PID_FILE,
    File,
    Minder,
    Place,
    PlacesEnd,
    Ready,
    Running,
    StateEnd,
    Taken,
    Yours,
)
from pipeline.system.service_manager import READY, ServiceManager

START_TIMEOUT: Final = 30.0
"""Seconds that the successor has to read its configuration and to start its workers."""
TAKE_TIMEOUT: Final = 8.0
"""Seconds that it has to take over. Guests wait meanwhile. Less than HANGS_AFTER of healing.py."""
FLUSH_TIMEOUT: Final = 2.0
TAKEN_TIMEOUT: Final = 2.0


class Replacement:
    """The process that goes on. minder_end: see pipeline.daemon.minder."""

    def __init__(self, pid: int, minder_end: socket.socket | None) -> None:
        self.pid = pid
        self.minder_end = minder_end


class Estate:
    """What a successor gets before it forks: the descriptors stay with their owners."""

    def __init__(self, logging: Logging, endpoints: Endpoints, files: OwnFiles, plane: ControlPlane) -> None:
        self._logging = logging
        self._endpoints = endpoints
        self._files = files
        self._memory = plane.memory

    def items(self) -> list[tuple[Place | File, list[int]]]:
        """The messages with their descriptors."""
        found: list[tuple[Place | File, list[int]]] = [
            (Place(API, url), [sock.fileno()]) for url, sock in self._endpoints.open
        ]
        found += [(Place(protocol, url), fds) for protocol, url, fds in self._memory.guest_places]
        files = (
            (CAPTURE, self._logging.capture_file, self._memory.capture),
            (PID_FILE, self._logging.pid_file, self._files.pid_fd),
        )
        found += [(File(kind, path), [fd]) for kind, path, fd in files if fd >= 0]
        return found


class Restarter:
    """Restarts at most once. It needs a running event loop."""

    def __init__(
        self,
        estate: Estate,
        plane: ControlPlane,
        healer: Healer,
        manager: ServiceManager,
        minder: socket.socket | None,
        done: Callable[[Replacement], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """minder: the socket to the process that the user started, if that is another one.

        done: called when the successor has everything.
        """
        self._estate = estate
        self._plane = plane
        self._healer = healer
        self._manager = manager
        self._minder = minder
        self._done = done
        self._log = log
        self._task: asyncio.Task[int] | None = None
        self._has_left = False
        """Whether the successor has everything, so that nothing can be undone."""
        self._ends = False
        self._signals: dict[signal.Signals, None] = {}
        """Signals for the successor, which may have read its files before they came."""

    @property
    def _under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    def request(self) -> None:
        """SIGUSR2 came."""
        if self._under_way or self._ends:
            self._log.warning("a restart is under way")
        else:
            self._begin()

    def repeat(self, number: signal.Signals) -> None:
        """A signal came that is about files. A successor that starts now gets it afterwards."""
        if self._under_way:
            self._signals[number] = None

    async def restart(self) -> int:
        """Restart now. Returns the process id of the successor. Raises RestartError."""
        if self._under_way:
            raise RestartError("a restart is under way")
        if self._ends:
            raise RestartError("the program ends")
        # The client may go away. The restart goes on.
        return await asyncio.shield(self._begin())

    def _begin(self) -> "asyncio.Task[int]":
        self._signals.clear()
        self._task = asyncio.get_running_loop().create_task(self._restart())
        self._task.add_done_callback(_look_at)
        return self._task

    async def stop(self) -> None:
        """The program ends: give up a restart that is under way, and begin no other one."""
        self._ends = True
        if self._task is not None and not self._task.done():
            if not self._has_left:
                self._task.cancel()
            with suppress(asyncio.CancelledError, RestartError):
                await self._task

    async def _restart(self) -> int:
        began = monotonic()
        self._log.info("restart begins")
        self._manager.reloading()
        try:
            return await self._attempt(began)
        except Exception as error:  # whatever it is, guests must not notice
            text = str(error) or type(error).__name__
            self._log.error("not restarted: nothing has changed", error=text)
            self._manager.notify(READY)
            raise RestartError(text) from error

    async def _attempt(self, began: float) -> int:
        ours, theirs = self._minder_pair()
        heir: Heir | None = None
        try:
            heir = Heir(self._manager.environment)
            self._give_places(heir, theirs)
            version = (await heir.expect(Ready, START_TIMEOUT)).version
            await self._hand_over(heir)
        except BaseException:
            if heir is not None:
                heir.kill()
            if ours is not None:
                ours.close()
            raise
        finally:
            if theirs is not None and theirs is not self._minder:
                theirs.close()
        self._has_left = True
        self._log.info(
            "restarted: a successor goes on",
            successor=heir.pid,
            version=version,
            seconds=round(monotonic() - began, 3),
        )
        if self._minder is not None:
            # The minder reads it before it learns that this process has ended.
            with suppress(OSError):
                self._minder.send(f"{heir.pid}\n".encode())
        for number in self._signals:
            heir.send_signal(number)
        self._done(Replacement(heir.pid, ours))
        try:
            await heir.expect(Taken, TAKEN_TIMEOUT)
        except HeirError as error:
            self._log.error("the successor is silent", error=str(error))
        heir.release()
        return heir.pid

    def _minder_pair(self) -> tuple[socket.socket | None, socket.socket | None]:
        """The minder's end, if this process will be the minder, and the end of the successor."""
        if self._minder is not None:
            return None, self._minder
        if self._manager.environment and os.getpid() != 1:
            return None, None
        return socket.socketpair()

    def _give_places(self, heir: Heir, minder: socket.socket | None) -> None:
        items = self._estate.items()
        for message, fds in items:
            heir.send(message, fds)
        if minder is not None:
            heir.send(Minder(), [minder])
        heir.send(PlacesEnd(len(items) + (minder is not None)))

    async def _hand_over(self, heir: Heir) -> None:
        plane = self._plane
        await plane.quotas.settle()
        async with plane.succession.alone(), self._healer.pause_all():
            plane.accept(on=False)
            try:
                async with plane.succession.collected() as items:
                    for message, fds in items:
                        heir.send(message, fds)
                    heir.send(StateEnd(len(items)))
                    await heir.expect(Running, TAKE_TIMEOUT)
                heir.send(Yours())
                heir.flush(FLUSH_TIMEOUT)
                self._healer.leave_paused()
                plane.succession.leave()
                plane.quotas.leave()
                # Only this process may say that. The successor waits for it before it says more (release).
                self._manager.main_process(heir.pid)
            except BaseException:
                plane.accept(on=True)
                raise


def _look_at(task: "asyncio.Task[int]") -> None:
    """Nobody may wait for the task after SIGUSR2. Its error is in the log."""
    if not task.cancelled():
        task.exception()
