"""One run of the daemon as a whole: start, life, end, and what the process becomes after a restart."""

import asyncio
import signal
from collections.abc import Mapping
from typing import Final

from pipeline import logs
from pipeline.config.model import Config
from pipeline.daemon import signals, supervisor
from pipeline.daemon.handover_line import LineError
from pipeline.daemon.minding import become_minder
from pipeline.daemon.preconditions import StartError
from pipeline.daemon.predecessor import Predecessor
from pipeline.daemon.programs import Companion, Program
from pipeline.daemon.reload import Reread
from pipeline.daemon.taps import TapsError
from pipeline.links import addresses
from pipeline.system import descriptor_limit
from pipeline.topology import TopologyError

_START_ERRORS: Final = (
    *(StartError, TapsError, addresses.AddressError),
    *(TopologyError, LineError, OSError),
)


def run(
    config: Config,
    program: Program,
    version: str,
    reread: Reread | None = None,
    *,
    taps: Mapping[str, int] = supervisor.NO_TAPS,
    companion: Companion | None = None,
    predecessor: Predecessor | None = None,
) -> int:
    """Run the daemon until it has to stop. Returns the exit status.

    version: for the API. reread: reads the configuration again after SIGHUP. Without it, SIGHUP ends it.
    taps: those of the configuration that are open already. companion: what the program adds. predecessor: a
    supervisor whose place this one takes.
    """
    running = supervisor.Supervisor(config, program, version, reread, taps, companion, predecessor)
    try:
        running.start()
    except _START_ERRORS as error:
        text = f"{error}{descriptor_limit.advice(error)}"
        if predecessor is not None:
            predecessor.refuse(text)
        running.release()
        if predecessor is None:
            logs.fatal(text, program.name)
        return supervisor.EXIT_FAILED
    try:
        status = asyncio.run(running.watch())
    finally:
        if running.successor is not None:
            # Until the minder can pass them on.
            signal.pthread_sigmask(signal.SIG_BLOCK, signals.handled())
            running.pass_on()
        running.release()
    if running.successor is not None and running.successor.minder_end is not None:
        become_minder(running.successor)
    return status
