"""The supervisor: starts the workers, watches them, serves the API, and stops everything in order.

It is outside the packet path: an asyncio program over the workers' control sockets. A worker that
ends on its own ends the daemon with status 1; SIGINT and SIGTERM end it with status 0.
"""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import Final

from pipeline import logs, workers
from pipeline.config import Config
from pipeline.control.forwarder import ForwardError
from pipeline.control.plane import ControlPlane
from pipeline.links import addresses
from pipeline.topology import Fabric, Layout, TopologyError

STOP_TIMEOUT: Final = 1.0
"""Seconds that the workers have to end after SIGTERM; then they are killed."""
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1


class StartError(Exception):
    """The daemon cannot start; the text says what is in the way."""


def run(config: Config) -> int:
    """Run the daemon until it is told to stop. Returns the exit status."""
    supervisor = Supervisor(config)
    try:
        supervisor.start()
    except (StartError, addresses.AddressError, TopologyError, OSError) as error:
        supervisor.release()
        logs.fatal(str(error))
        return EXIT_FAILED
    try:
        return asyncio.run(supervisor.watch())
    finally:
        supervisor.release()


class Supervisor:
    """One run of the daemon."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log = logs.logger("supervisor")
        self.running: list[workers.Running] = []
        self.paths: list[str] = []
        self.api_listeners: list[socket.socket] = []
        self.service_listeners: list[socket.socket] = []
        self.guest_listeners: workers.Listeners = []
        self.fabric: Fabric | None = None
        self.status = EXIT_OK
        self.stopping = asyncio.Event()

    # --- start, before any event loop -----------------------------------------------------

    def start(self) -> None:
        """Bind what is asked for and fork the workers. Raises StartError, AddressError, OSError."""
        config = self.config
        self._write_pid_file()
        layout = Layout(config.slots, config.tcp_workers, config.egress_workers)
        self.api_listeners = [self._listen(url) for url in config.listen]
        if config.services:
            self.service_listeners = [self._listen(config.services)]
        if config.qemu:
            self.guest_listeners.append((self._listen(config.qemu), "qemu"))
        self.fabric = Fabric.create(layout)
        private = [*self.api_listeners, *self.service_listeners]
        self.running = workers.start(self.fabric, config, self.guest_listeners, private)
        for sock, _ in self.guest_listeners:
            sock.close()

    def _listen(self, url: str) -> socket.socket:
        sock = addresses.listen(url)
        if url.startswith("unix:"):
            self.paths.append(addresses.unix_path(url))
        self.log.info(f"listening {url}")
        return sock

    def _write_pid_file(self) -> None:
        path = self.config.pid_file
        if not path:
            return
        try:
            with open(path, "w", encoding="ascii") as file:
                # No newline: podman reads the number without trimming.
                file.write(str(os.getpid()))
        except OSError as error:
            raise StartError(f"cannot write pid file {path}: {error.strerror}") from error
        self.paths.append(path)

    # --- life -----------------------------------------------------------------------------

    async def watch(self) -> int:
        """Serve the API until a signal comes or a worker ends; then stop the workers."""
        assert self.fabric is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        for worker in self.running:
            loop.add_reader(worker.process.sentinel, self._on_end, worker)
        plane = ControlPlane(
            self.config, self.fabric, {worker.name: worker.control for worker in self.running}
        )
        try:
            await plane.start(self.api_listeners, self.service_listeners)
            self.log.info("waiting for clients...", workers=len(self.running))
            await self.stopping.wait()
        except ForwardError as error:
            self.log.critical(str(error))
            self.status = EXIT_FAILED
        self.stopping.set()
        self._remove_paths()
        await self._stop_workers()
        await plane.close()
        self.log.info("stopped", status=self.status)
        return self.status

    def _on_signal(self, number: int) -> None:
        self.log.info("signal caught", signal=signal.Signals(number).name)
        self.stopping.set()

    def _on_end(self, worker: workers.Running) -> None:
        """A worker's process is over: expected while stopping, otherwise the end of the daemon."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.process.sentinel)
        worker.process.join(1)
        if not self.stopping.is_set():
            self.log.error(
                "worker died", worker=worker.name, pid=worker.process.pid, exitcode=worker.process.exitcode
            )
            self.status = EXIT_FAILED
            self.stopping.set()

    async def _stop_workers(self) -> None:
        for worker in self.running:
            if worker.process.is_alive():
                worker.process.terminate()
        deadline = asyncio.get_running_loop().time() + STOP_TIMEOUT
        for worker in self.running:
            while worker.process.is_alive() and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.005)
            if worker.process.is_alive():
                self.log.error("worker did not stop in time", worker=worker.name, pid=worker.process.pid)
                worker.process.kill()
                worker.process.join()

    # --- end ------------------------------------------------------------------------------

    def release(self) -> None:
        """Close and remove what start() made, as far as it came."""
        for worker in self.running:
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.control.close()
        for sock in (
            *self.api_listeners,
            *self.service_listeners,
            *(sock for sock, _ in self.guest_listeners),
        ):
            sock.close()
        # The segment is unmapped with the process: views of it live in the channels' bells.
        self._remove_paths()

    def _remove_paths(self) -> None:
        for path in self.paths:
            with suppress(FileNotFoundError):
                os.unlink(path)
        self.paths.clear()
