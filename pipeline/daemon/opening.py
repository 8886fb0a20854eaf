"""Opens everything through which guests and clients reach the daemon, in gvproxy's order.

Whatever serves a socket is started before the socket is bound. So a socket works as soon as its file exists.
The sockets of links (guest_sockets.py) come last: a program that waits for one finds a network that works.
"""

import asyncio

import structlog

from pipeline.control.notify import HYPERVISOR_ERROR, READY
from pipeline.control.plane import ControlPlane
from pipeline.daemon.endpoints import Endpoints
from pipeline.daemon.guest_sockets import GuestSockets
from pipeline.daemon.outputs import Outputs
from pipeline.daemon.own_files import OwnFiles
from pipeline.daemon.taking_over import TakingOver
from pipeline.links.addresses import AddressError
from pipeline.links.inherited import Inherited


class Opening:
    """What the daemon opens once, when its workers run."""

    def __init__(
        self,
        endpoints: Endpoints,
        guest_sockets: GuestSockets,
        inherited: Inherited,
        outputs: Outputs,
        files: OwnFiles,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._endpoints = endpoints
        self._guest_sockets = guest_sockets
        self._inherited = inherited
        self._outputs = outputs
        self._files = files
        self._log = log

    async def run(self, plane: ControlPlane, taking_over: TakingOver | None, stopping: asyncio.Event) -> bool:
        """Bind everything, but give up when the end begins, for instance during a name lookup.

        taking_over: brings what a predecessor had, if there is one. Returns whether everything is bound.
        """
        opening = asyncio.create_task(self._open(plane, taking_over))
        ending = asyncio.create_task(stopping.wait())
        await asyncio.wait((opening, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        opening.cancel()
        await asyncio.wait((opening,))
        if opening.cancelled():
            return False
        opening.result()
        return True

    async def _open(self, plane: ControlPlane, taking_over: TakingOver | None) -> None:
        if taking_over is not None:
            await taking_over.before_opening()
        await plane.start()
        if self._outputs.capture >= 0:
            await plane.capture(self._outputs.capture)
            self._outputs.close_capture()
        if taking_over is not None:
            # Clients of the API wait until everything is as it was.
            await taking_over.restore()
        self._endpoints.serve_guests(plane)
        plane.notify(READY)
        self._endpoints.serve_others(plane)
        try:
            await self._guest_sockets.hand_over(
                plane, self._inherited, self._files.keep, self._report_listening
            )
        except AddressError:
            plane.notify(HYPERVISOR_ERROR)
            raise
        if taking_over is not None:
            taking_over.end()
            return
        await plane.forward_sockets()

    def _report_listening(self, protocol: str, url: str) -> None:
        self._log.info(f"listening {url}", kind="listening", protocol=protocol)
