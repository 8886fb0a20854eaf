"""The supervisor: the main process of the daemon. It starts and watches the workers, and serves the API.

The supervisor does not touch packets. It is an asyncio program that talks to the workers over control
sockets. opening.py opens what guests and clients reach.

If a worker ends on its own, a successor takes its place (healing.py). Only during the start, and if that
happens too often, the daemon ends with status 1. SIGINT and SIGTERM end it with status 0, and so
does SIGHUP, unless there is a configuration file to read again (reload.py). SIGQUIT ends it with status 2 and
prints a traceback of every process. After SIGUSR1 all processes open the log again. After SIGUSR2 a new
version takes its place (restart.py). The supervisor acts on a signal that comes during the start after it has
forked the workers. From then on it can undo everything in order.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Final

from pipeline import logs
from pipeline.config.model import Config
from pipeline.control.facts import Facts, Process
from pipeline.control.forward_texts import ForwardError
from pipeline.control.http.access import TokenError, read_token
from pipeline.control.metrics.meter import Meter
from pipeline.control.notify import HYPERVISOR_ERROR
from pipeline.control.plane import ControlPlane
from pipeline.control.ssh.destination import SocketError, SshError
from pipeline.control.workers import RequestError
from pipeline.daemon import confinement, placement, preconditions, processes, signals
from pipeline.daemon.endpoints import Endpoints
from pipeline.daemon.fleet import FleetAgent
from pipeline.daemon.given import Given
from pipeline.daemon.guest_sockets import GuestSockets
from pipeline.daemon.healing import Healer
from pipeline.daemon.nursery import Nursery, Successor
from pipeline.daemon.opening import Opening
from pipeline.daemon.outputs import OutputError, Outputs
from pipeline.daemon.own_files import OwnFiles
from pipeline.daemon.preconditions import StartError
from pipeline.daemon.predecessor import Predecessor
from pipeline.daemon.programs import Companion, Program
from pipeline.daemon.reload import Reloader, Reread
from pipeline.daemon.restart import Estate, Replacement, Restarter
from pipeline.daemon.taking_over import TakingOver
from pipeline.ipc import messages
from pipeline.ipc.arena import SLOT_BYTES
from pipeline.ipc.fabric import Fabric
from pipeline.ipc.handover_messages import CAPTURE, PID_FILE
from pipeline.ipc.segment import SegmentError
from pipeline.links import addresses, inherited, protocols
from pipeline.system import descriptor_limit, stacks
from pipeline.system.service_manager import ALIVE, STOPPING, ServiceManager
from pipeline.system.service_manager import READY as READY_FOR_MANAGER
from pipeline.topology import INGRESS, Layout

NOTIFY_WAIT: Final = 0.2
"""Seconds between the end of the last guest and the end of the daemon, for notifications about the guest."""
NO_TAPS: Final[Mapping[str, int]] = {}
WITHDRAW_WAIT: Final = 0.01
"""Seconds that ingress has to send guests the last router advertisement."""
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_QUIT: Final = 2


class Supervisor:
    """One run of the daemon."""

    def __init__(
        self,
        config: Config,
        program: Program,
        version: str,
        reread: Reread | None = None,
        taps: Mapping[str, int] = NO_TAPS,
        companion: Companion | None = None,
        predecessor: Predecessor | None = None,
    ) -> None:
        self.config = config
        self.predecessor = predecessor
        self.taking_over: TakingOver | None = None
        self.refused = False
        """Whether the predecessor goes on."""
        self.successor: Replacement | None = None
        """The process that goes on."""
        self.restarter: Restarter | None = None
        self.can_restart = asyncio.Event()
        self.minder: socket.socket | None = None
        """The socket to the process that the user started, if that is another one."""
        self.program = program
        self.version = version
        self.log = logs.logger("supervisor")
        self.reread = reread
        self.reloader: Reloader | None = None
        self.signals = signals.Signals(reloads=reread is not None)
        self.running: list[processes.Running] = []
        self.nursery: Nursery | None = None
        self.healer: Healer | None = None
        self.files = OwnFiles(self.log)
        self.inherited = inherited.Inherited(os.environ, os.getpid())
        self.manager = ServiceManager(os.environ, os.getpid())
        given = predecessor.given if predecessor is not None else Given()
        self.endpoints = Endpoints(config.links, self.files, self.inherited, given, self.log)
        self.guest_sockets = GuestSockets(config, program, taps, given)
        self.companion = companion
        self.outputs = Outputs(config.logging, self.log)
        self.token = ""
        self.fabric: Fabric | None = None
        self.plane: ControlPlane | None = None
        self.fleet = FleetAgent()
        self.status = EXIT_OK
        self.reason = ""
        """Why the daemon ends: the first cause."""
        self.stopping = asyncio.Event()

    # --- start, before any event loop -----------------------------------------------------

    def start(self) -> None:
        """Claim inherited descriptors and fork the workers. Raises StartError, AddressError, OSError."""
        config = self.config
        descriptor_limit.raise_soft()
        if self.predecessor is not None:
            self.predecessor.receive_places()
            self.guest_sockets.adopt_taps(self.predecessor.given)
        preconditions.check(config, self.log)
        links = config.links
        reachable = links.listen or links.listen_connect or links.stdio or any(self.guest_sockets.urls())
        if not reachable and not self.program.one_guest:
            self.log.warning("no guest can attach: start has neither -listen nor another flag for links")
        capture = -1
        if self.predecessor is not None:
            capture = self.predecessor.take_file(CAPTURE, config.logging.capture_file)
        else:
            self._write_pid()
        self._claim_inherited()
        self.guest_sockets.take(stdio_given=self.predecessor is not None)
        try:
            self.outputs.open(capture)
        except OutputError as error:
            raise StartError(str(error)) from error
        self._fork()
        try:
            # Not before: neither workers nor the nursery may know it.
            self.token = read_token(config.access.api_token_file)
        except TokenError as error:
            raise StartError(str(error)) from error

    def _write_pid(self) -> None:
        """Write the pid file. Raises StartError."""
        path = self.config.logging.pid_file
        given = self.predecessor.take_file(PID_FILE, path) if self.predecessor is not None else -1
        try:
            self.files.write_pid(path, given)
        except OSError as error:
            raise StartError(f"cannot write pid file {path}: {error.strerror}") from error

    def _claim_inherited(self) -> None:
        """Take the sockets that a parent has passed for URLs of the configuration."""
        self.endpoints.claim()
        self.guest_sockets.claim(self.inherited)
        for name in self.inherited.unused():
            self.log.warning("a passed descriptor is not used", descriptor=name)

    def _fork(self) -> None:
        """Make the shared memory, and start the workers. Raises StartError, OSError."""
        config, workers = self.config, self.config.workers
        layout = Layout(workers.slots, workers.tcp_workers, workers.egress_workers)
        groups = placement.plan(workers.placement, layout, os.cpu_count() or 1)
        try:
            # For a moment there are two daemons, and a container often has room for one only.
            beside = self.predecessor is not None
            self.fabric = Fabric.create(layout, [group.members for group in groups], anywhere=beside)
        except SegmentError as error:
            raise StartError(
                f"{error} (use fewer -slots than {layout.slots}, of {SLOT_BYTES // 1024} KiB each, or make "
                "it larger: mount -o remount,size=..., --shm-size of a container)"
            ) from error
        private: list[socket.socket | int] = [*self.signals.fds, *self.inherited.sockets]
        private += self.guest_sockets.fds
        private += self.companion.fds if self.companion is not None else []
        private += self.outputs.fds
        private += [self.files.pid_fd] if self.files.pid_fd >= 0 else []
        private += self.predecessor.fds if self.predecessor is not None else []
        self.running, self.nursery = processes.start(self.fabric, groups, config, private)

    # --- life -----------------------------------------------------------------------------

    async def watch(self) -> int:
        """Serve until a signal comes, a worker cannot be replaced or the only guest leaves. Then stop all."""
        plane, healer = self._begin()
        if await self._take_over(plane):
            await self._serve(plane, healer)
        await self._end(plane, healer)
        return self.status

    def _begin(self) -> tuple[ControlPlane, Healer]:
        """Watch the processes, and make what serves clients and what replaces workers."""
        assert self.fabric is not None
        assert self.nursery is not None
        loop = asyncio.get_running_loop()
        loop.add_reader(self.signals.fileno(), self._on_signals)
        for worker in self.running:
            loop.add_reader(worker.process.sentinel, self._on_end, worker)
        controls = {name: sock for worker in self.running for name, sock in worker.controls.items()}
        running = [Process(each.name, each.process.pid, tuple(each.controls)) for each in self.running]
        facts = Facts.of(self.config, running, monotonic())
        meter = Meter(self.fabric, facts, self.version, self.log, self.config.fleet.fleet_host)
        self.plane = plane = ControlPlane(
            self.config, self.fabric, controls, self._on_guest, meter, self.token, self.outputs.flow_log
        )
        self.healer = healer = Healer(
            self.fabric,
            self.running,
            self.nursery,
            plane,
            lambda reason: self._stop(reason, EXIT_FAILED),
            self.log,
        )
        self.nursery.watch(self._on_successor_end, self._on_nursery_end)
        if self.reread is not None:
            self.reloader = Reloader(self.config, self.reread, plane.reload, self.manager, self.log)
        return plane, healer

    async def _take_over(self, plane: ControlPlane) -> bool:
        """Take over from the predecessor, if there is one. False: that one goes on, and this one ends."""
        if (predecessor := self.predecessor) is None:
            return True
        self.taking_over = TakingOver(predecessor, plane, self.config, self.log)
        if not await self.taking_over.begin(self.version, self._reserve):
            self.refused = True
            self._stop("the predecessor goes on", EXIT_FAILED)
            return False
        try:
            self._write_pid()
        except StartError as error:
            self.log.error("pid file not written", error=str(error))
        predecessor.taken()
        if (minder := predecessor.take_minder()) is not None:
            self.minder = minder
            asyncio.get_running_loop().add_reader(minder.fileno(), self._on_minder_end)
        return True

    def _reserve(self) -> None:
        """Bind what the predecessor did not have. Raises AddressError, OSError."""
        self.endpoints.reserve()
        self.guest_sockets.reserve(self.inherited)

    def _on_minder_end(self) -> None:
        """The minder never writes, so it has closed its socket."""
        assert self.minder is not None
        asyncio.get_running_loop().remove_reader(self.minder.fileno())
        self._stop("the process that was started has ended", EXIT_OK)

    async def _restart(self) -> int:
        """Replace the program, once everything is open: the API answers before. See Restarter.restart()."""
        await self.can_restart.wait()
        assert self.restarter is not None
        return await self.restarter.restart()

    def _on_restarted(self, successor: Replacement) -> None:
        self.successor = successor
        self._stop("restarted", EXIT_OK)

    async def _serve(self, plane: ControlPlane, healer: Healer) -> None:
        """Open everything, and serve until the end begins."""
        if self.program.restarts:
            plane.restart = self._restart
        try:
            if not self._is_stopping() and await self._open(plane):
                # Everything that needs a right is open now.
                confinement.become_user(self.config)
                self.fleet.start(self.config, plane, self.log)
                if self.companion is not None:
                    await self.companion.opened(plane, lambda reason: self._stop(reason, EXIT_OK))
                self.log.info("waiting for clients...", processes=len(self.running))
                self.manager.notify(READY_FOR_MANAGER)
                self._report_alive()
                healer.start()
                if self.program.restarts:
                    estate = Estate(self.config.logging, self.endpoints, self.files, plane)
                    parts = (estate, plane, healer, self.manager, self.minder)
                    self.restarter = Restarter(*parts, self._on_restarted, self.log)
                    self.can_restart.set()
                if self.reloader is not None:
                    self.reloader.start()
            await self.stopping.wait()
        except (
            *(ForwardError, RequestError, SocketError, SshError),
            *(addresses.AddressError, OSError),
        ) as error:
            if not self._is_stopping():
                text = f"{error}{descriptor_limit.advice(error)}"
                if isinstance(error, ForwardError) and not self.program.one_guest:
                    text += error.advice
                self._stop(text, EXIT_FAILED)
                if not self.program.one_guest:
                    self.log.critical(text, kind="start-failed")

    async def _end(self, plane: ControlPlane, healer: Healer) -> None:
        """Take back what is in the file system, and stop the workers."""
        if self.reloader is not None:
            await self.reloader.stop()
        if self.restarter is not None:
            await self.restarter.stop()
        await healer.stop()
        await self.fleet.stop()
        if self.successor is not None:
            self.files.leave_all()
        elif not self.refused:
            self.files.remove_all()
            self.manager.notify(STOPPING)
            if self.config.network.ipv6_first and await plane.withdraw_route():
                await asyncio.sleep(WITHDRAW_WAIT)
        await plane.stop_workers()
        await processes.stop(self.running, self.log)
        await plane.close()
        if self.successor is None and not self.refused:
            self.log.info("stopped", status=self.status)
        if self.program.one_guest:
            # The last line has gvproxy's words, because scripts look for them.
            self.log.error(f"{self.program.name} exiting: {self.reason}", kind="original-exit")

    async def _open(self, plane: ControlPlane) -> bool:
        """Open everything. False if the end has begun meanwhile."""
        opening = Opening(
            *(self.endpoints, self.guest_sockets, self.inherited),
            *(self.outputs, self.files, self.log),
        )
        return await opening.run(plane, self.taking_over, self.stopping)

    def _report_alive(self) -> None:
        """Tell the manager of services, again and again, that the event loop runs. Workers end with it."""
        every = self.manager.alive_every
        if every and not self.stopping.is_set():
            self.manager.notify(ALIVE)
            asyncio.get_running_loop().call_later(every, self._report_alive)

    def _stop(self, reason: str, status: int) -> None:
        """Begin the end of the daemon. The first call decides reason and status."""
        if not self.stopping.is_set():
            self.reason, self.status = reason, status
            self.stopping.set()

    def _is_stopping(self) -> bool:
        """Whether the end has begun.

        This reads pending signals first. A signal to the process group may end a worker before the event loop
        sees the signal. The worker's end is then not a failure.
        """
        self._on_signals()
        return self.stopping.is_set()

    def pass_on(self) -> None:
        """Give the successor the signals that came after the event loop's last look."""
        self._on_signals()

    def _on_signals(self) -> None:
        for number in self.signals.take():
            self._on_signal(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.successor is not None:
            with suppress(ProcessLookupError):
                os.kill(self.successor.pid, number)
            return
        if self.restarter is not None and number in (signal.SIGUSR1, signal.SIGHUP):
            self.restarter.repeat(number)
        if number == signal.SIGUSR1:
            log = logs.reopen()
            self.outputs.reopen_flow_log()
            if self.nursery is not None:
                self.nursery.reopen_log()
            if log >= 0 and self.plane is not None:
                self.plane.move_log(log)
            self.log.info("log reopened")
            return
        self.log.info("signal caught", signal=number.name)
        if number == signal.SIGUSR2:
            if self.restarter is not None:
                self.restarter.request()
            return
        if number == signal.SIGHUP and self.reloader is not None:
            self.reloader.request()
            return
        if number == signal.SIGQUIT:
            logs.raw(stacks.traceback())
            self._signal_workers(number)
        self._stop("signal caught", EXIT_QUIT if number == signal.SIGQUIT else EXIT_OK)

    def _signal_workers(self, number: signal.Signals) -> None:
        for worker in self.running:
            if worker.process.is_alive():
                os.kill(worker.process.pid, number)

    def _on_guest(self, event: messages.GuestEvent) -> None:
        """Ingress reports that a guest left, or that a listener for guests failed."""
        assert self.plane is not None
        protocol, error = event.protocol, event.error
        failed = event.change == "failed"
        if event.text and self.program.one_guest:
            # Scripts look for the original's words.
            opened_by = {"opened_by": event.opened_by} if event.opened_by else {}
            self.log.error(
                event.text, kind="original-guest-gone", protocol=protocol, peer=event.peer, **opened_by
            )
        if failed or protocol == protocols.STDIO:
            self.plane.notify(HYPERVISOR_ERROR)
        ends = self.program.ends_after(protocol)
        if failed and self.program.one_guest:
            self._stop(error, EXIT_FAILED)
        elif ends or (protocol == protocols.STDIO and self.guest_sockets.only_stdio):
            wait = NOTIFY_WAIT if self.config.links.notification else 0.0
            asyncio.get_running_loop().call_later(wait, self._stop, event.text or error, EXIT_OK)

    def _on_end(self, worker: processes.Running) -> None:
        """A worker process has ended. Unless the daemon is already stopping, it is replaced."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.process.sentinel)
        worker.process.join(1)
        self._on_death(worker)

    def _on_successor_end(self, process: Successor) -> None:
        for worker in [worker for worker in self.running if worker.process is process]:
            self._on_death(worker)

    def _on_death(self, worker: processes.Running) -> None:
        if self.healer is not None and not self._is_stopping():
            self.healer.died(worker)
            if self.program.one_guest and INGRESS in worker.controls:
                # The one guest is gone, and the program ends with it.
                self._stop(f"worker {worker.name} died", EXIT_FAILED)

    def _on_nursery_end(self) -> None:
        if self.healer is not None and not self._is_stopping():
            self.healer.nursery_died()

    # --- end ------------------------------------------------------------------------------

    def release(self) -> None:
        """Close and remove everything that start() and watch() made so far."""
        for worker in self.running:
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            for sock in worker.controls.values():
                sock.close()
        if self.nursery is not None:
            self.nursery.close()
        self.endpoints.close()
        if self.predecessor is not None:
            self.predecessor.close()
        if self.minder is not None:
            self.minder.close()
        self.inherited.close()
        self.guest_sockets.close()
        if self.companion is not None:
            self.companion.close()
        self.outputs.close()
        # The segment stays mapped until the process ends, because the channels' bells have views of it.
        self.files.remove_all()
        self.signals.close(ignore=self.successor is None)
