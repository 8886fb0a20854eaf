"""Forking the workers: which stage runs where, and what each child keeps of its parent.

A child owns its ends of the control socket and of hand-off sockets, and nothing else of the
parent's: a copied end would keep a socket open after its owner died.
"""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import multiprocess

from pipeline import process_name
from pipeline.config import Config
from pipeline.stages.demux import DemuxStage
from pipeline.stages.egress import EgressStage
from pipeline.stages.ingress import IngressStage
from pipeline.stages.listen import ListenStage
from pipeline.stages.resolver import ResolverStage
from pipeline.stages.tcp import TcpStage
from pipeline.stages.worker import Stage, Worker
from pipeline.topology import DEMUX, EGRESS, INGRESS, LISTEN, RESOLVER, TCP, Fabric

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
    """One worker process and the supervisor's end of its control socket."""

    name: str
    process: Any
    control: socket.socket


def start(fabric: Fabric, config: Config, private: Sequence[socket.socket | int]) -> list[Running]:
    """Fork all workers. private: sockets and descriptors of the supervisor, closed in every child."""
    context = multiprocess.get_context("fork")
    names = fabric.layout.names
    pairs = {name: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for name in names}
    running = []
    for name in names:
        process = context.Process(
            target=_main, name=name, args=(name, fabric, config, private, pairs), daemon=True
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
    private: Sequence[socket.socket | int],
    pairs: dict[str, tuple[socket.socket, socket.socket]],
) -> None:
    process_name.set_name(f"gvtap-{name}")
    for owner, (supervisors, workers) in pairs.items():
        supervisors.close()
        if owner != name:
            workers.close()
    for ends in fabric.handoffs.values():
        for owner, end in ends.items():
            if owner != name:
                end.close()
    for own in private:
        if isinstance(own, int):
            os.close(own)
        else:
            own.close()
    worker = Worker(fabric.ports(name), pairs[name][1])
    worker.run(_STAGES[fabric.layout.node(name).role](worker, config))
