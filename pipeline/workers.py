"""Forking the workers: which stage runs where, and what each child keeps of its parent.

A child owns its ends of the control socket and of hand-off sockets, and nothing else of the
parent's: a copied end would keep a socket open after its owner died.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import multiprocess

from pipeline.config import Config
from pipeline.stages.demux import DemuxStage
from pipeline.stages.egress import EgressStage
from pipeline.stages.ingress import IngressStage
from pipeline.stages.listen import ListenStage
from pipeline.stages.resolver import ResolverStage
from pipeline.stages.tcp import TcpStage
from pipeline.stages.worker import Stage, Worker
from pipeline.topology import DEMUX, EGRESS, INGRESS, LISTEN, RESOLVER, TCP, Fabric

Listeners = list[tuple[socket.socket, str]]
"""Sockets on which guests connect, each with the name of its framing."""

_STAGES: Final[dict[str, Callable[[Worker, Config], Stage]]] = {
    DEMUX: DemuxStage,
    TCP: TcpStage,
    EGRESS: EgressStage,
    RESOLVER: ResolverStage,
    LISTEN: ListenStage,
}


@dataclass(slots=True)
class Running:
    """One worker process and the supervisor's end of its control socket."""

    name: str
    process: Any
    control: socket.socket


def start(fabric: Fabric, config: Config, guests: Listeners, private: list[socket.socket]) -> list[Running]:
    """Fork all workers. guests are for ingress; private sockets are closed in every child.

    The listening sockets in guests are ingress's from then on: close them in the parent.
    """
    context = multiprocess.get_context("fork")
    names = fabric.layout.names
    pairs = {name: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for name in names}
    running = []
    for name in names:
        process = context.Process(
            target=_main, name=name, args=(name, fabric, config, guests, private, pairs), daemon=True
        )
        process.start()
        running.append(Running(name, process, pairs[name][0]))
    for _, theirs in pairs.values():
        theirs.close()
    return running


def _main(
    name: str,
    fabric: Fabric,
    config: Config,
    guests: Listeners,
    private: list[socket.socket],
    pairs: dict[str, tuple[socket.socket, socket.socket]],
) -> None:
    for owner, (supervisors, workers) in pairs.items():
        supervisors.close()
        if owner != name:
            workers.close()
    for ends in fabric.handoffs.values():
        for owner, end in ends.items():
            if owner != name:
                end.close()
    for sock in private:
        sock.close()
    role = fabric.layout.node(name).role
    if role != INGRESS:
        for sock, _ in guests:
            sock.close()
    worker = Worker(fabric.ports(name), pairs[name][1])
    stage = IngressStage(worker, config, guests) if role == INGRESS else _STAGES[role](worker, config)
    worker.run(stage)
