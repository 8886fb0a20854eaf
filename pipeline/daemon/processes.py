"""Forks the worker processes, and makes the workers with their stages in each of them.

A child keeps its own ends of control sockets and hand-off sockets. It closes all other descriptors that it
has inherited. Otherwise its copies would keep sockets open after the death of their owners.
"""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import multiprocess
import structlog

from pipeline import logs
from pipeline.config.model import Config
from pipeline.daemon import confinement, signals
from pipeline.daemon.nursery import FIRST, Birth, Ends, Nursery
from pipeline.daemon.placement import Group
from pipeline.ipc.fabric import Fabric
from pipeline.ipc.poller import Poller
from pipeline.ipc.socket_pair import socket_pair
from pipeline.stages.demux.stage import DemuxStage
from pipeline.stages.egress.stage import EgressStage
from pipeline.stages.ingress.stage import IngressStage
from pipeline.stages.listen.stage import ListenStage
from pipeline.stages.loop import Loop
from pipeline.stages.protocol import Stage
from pipeline.stages.resolver.stage import ResolverStage
from pipeline.stages.tcp.stage import TcpStage
from pipeline.stages.worker import Worker
from pipeline.system import oom, process_name, resident
from pipeline.topology import DEMUX, EGRESS, INGRESS, LISTEN, RESOLVER, TCP

LAST_WAIT: Final = 0.3
"""Seconds that a worker waits at its end for its last log lines: less than STOP_TIMEOUT."""
STOP_TIMEOUT: Final = 1.0
"""Seconds that the workers have to end in order. After that the supervisor kills them."""

_STAGES: Final[dict[str, Callable[[Worker, Config], Stage]]] = {
    INGRESS: IngressStage,
    DEMUX: DemuxStage,
    TCP: TcpStage,
    EGRESS: EgressStage,
    RESOLVER: ResolverStage,
    LISTEN: ListenStage,
}


@dataclass(slots=True)
class Running:
    """One process, and the supervisor's ends of the control sockets of the workers in it."""

    name: str
    process: Any
    controls: dict[str, socket.socket]


def start(
    fabric: Fabric, groups: Sequence[Group], config: Config, private: Sequence[socket.socket | int]
) -> tuple[list[Running], Nursery]:
    """Fork all processes, and the nursery. private: descriptors of the supervisor, which children close."""
    context = multiprocess.get_context("fork")
    pairs = {name: socket_pair() for name in fabric.layout.names}
    for group in groups:
        confinement.prepare(_roles(fabric, group), config)
    # Collect garbage here once. A collection in a child would copy every page that it visits.
    gc.collect()
    resident.give_back()
    gc.freeze()
    running = []
    # A fork would be safe with the log's thread (logs.py locks its queue), but it is simpler without.
    logs.stop_thread()
    # Block signals across fork(): until Loop installs its own handlers, a child has the supervisor's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.handled())
    try:
        for group in groups:
            process = context.Process(
                target=_main, name=group.name, args=(group, fabric, config, private, pairs), daemon=True
            )
            process.start()
            running.append(Running(group.name, process, {name: pairs[name][0] for name in group.members}))
        nursery = Nursery.start(
            partial(_begin_nursery, fabric, config, private, pairs), partial(_be_successor, fabric, groups)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for _, theirs in pairs.values():
        theirs.close()
    return running, nursery


async def stop(running: Sequence[Running], log: structlog.typing.FilteringBoundLogger) -> None:
    """End all processes, in order if they do so in time."""
    # The plane has asked them over the control sockets too. A signal always arrives, but a worker may act
    # on it up to a second later. A message acts at once, but needs room in the socket.
    for worker in running:
        if worker.process.is_alive():
            worker.process.terminate()
    deadline = asyncio.get_running_loop().time() + STOP_TIMEOUT
    for worker in running:
        while worker.process.is_alive() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.005)
        if worker.process.is_alive():
            log.error("worker did not stop in time", worker=worker.name, pid=worker.process.pid)
            worker.process.kill()
            worker.process.join()


def _begin_nursery(
    fabric: Fabric,
    config: Config,
    private: Sequence[socket.socket | int],
    pairs: dict[str, tuple[socket.socket, socket.socket]],
) -> None:
    """Close what the nursery must not have, and become the user that the supervisor will be.

    It does what the supervisor says, so it must not have more rights.
    """
    for pair in pairs.values():
        for end in pair:
            end.close()
    fabric.close_handoffs()
    _close_private(private)
    confinement.begin_nursery(config)


def _close_private(private: Sequence[socket.socket | int]) -> None:
    for own in private:
        if isinstance(own, int):
            os.close(own)
        else:
            own.close()


def _be_successor(
    fabric: Fabric,
    groups: Sequence[Group],
    name: str,
    config: Config,
    ends: Ends,
    births: Mapping[str, Birth],
) -> None:
    """Run the process with this name, whose predecessor has died. Called in a child of the nursery."""
    group = next(group for group in groups if group.name == name)
    process_name.set_name(f"gvtap-{name}")
    fabric.set_handoffs(ends.handoffs)
    logs.set_level(config.logging.log_level)
    confinement.begin_successor(config)
    _run(group, fabric, config, ends.controls, births)


def _main(
    group: Group,
    fabric: Fabric,
    config: Config,
    private: Sequence[socket.socket | int],
    pairs: dict[str, tuple[socket.socket, socket.socket]],
) -> None:
    process_name.set_name(f"gvtap-{group.name}")
    for owner, (supervisors, workers) in pairs.items():
        supervisors.close()
        if owner not in group.members:
            workers.close()
    for ends in fabric.handoffs.values():
        for owner, end in ends.items():
            if owner not in group.members:
                end.close()
    _close_private(private)
    _run(group, fabric, config, {name: pairs[name][1] for name in group.members}, {})


def _run(
    group: Group,
    fabric: Fabric,
    config: Config,
    controls: Mapping[str, socket.socket],
    births: Mapping[str, Birth],
) -> None:
    """Run the workers of a process. births: see make_loop()."""
    oom.go_first()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1, signal.SIGUSR2))
    logs.begin(group.name, partial(fabric.counters(group.members[0]).add, "log_lines_dropped"))
    try:
        loop, made = make_loop(fabric, group, config, controls, births)
        # The code that made the stages. It must be now: confine() takes away the files of /proc.
        resident.give_back()
        confinement.show_files(made[group.members[0]])
        confinement.confine(_roles(fabric, group), config, logs.logger(group.name))
        logs.go_on()
        loop.run()
    finally:
        logs.flush(LAST_WAIT)


def _roles(fabric: Fabric, group: Group) -> frozenset[str]:
    return frozenset(fabric.layout.node(name).role for name in group.members)


def make_loop(
    fabric: Fabric,
    group: Group,
    config: Config,
    controls: Mapping[str, socket.socket],
    births: Mapping[str, Birth] | None = None,
) -> tuple[Loop, dict[str, Worker]]:
    """Make the loop of one process, and its workers. controls: the workers' ends of the control sockets.

    births: of successors of workers that died.
    """
    workers: dict[str, Worker] = {}
    poller: Poller | None = None
    for name in group.members:
        birth = (births or {}).get(name, FIRST)
        ports = fabric.ports(name, birth.incarnation)
        if birth.incarnation:
            ports.counters.begin_again()
        if birth.slots is not None and ports.pool is not None:
            ports.pool.restore(birth.slots)
        worker = Worker(
            ports,
            controls.get(name),
            poller=poller,
            on_reload=_on_reload,
            on_log_file=logs.adopt,
        )
        poller = worker.poller
        worker.adopt(_STAGES[fabric.layout.node(name).role](worker, config))
        workers[name] = worker
    for worker in workers.values():
        worker.share(workers)
    back = [workers[name] for name in group.back]
    busy_poll = config.workers.busy_poll * 1e-6
    loop = Loop(fabric.waiters[group.members[0]], list(workers.values()), back, busy_poll)
    return loop, workers


def _on_reload(config: Config) -> None:
    logs.set_level(config.logging.log_level)
