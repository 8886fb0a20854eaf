"""The places at which guests arrive, besides ``-listen``: sockets, taps, standard input and output.

::

    take() before the fork    stdio and taps, which need the process as it started
    hand_over()               binds the sockets, and gives everything to ingress
    close()                   what ingress did not get
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from pipeline.config.model import Config
from pipeline.control.plane import ControlPlane
from pipeline.daemon.given import Given
from pipeline.daemon.programs import Program
from pipeline.daemon.taps import Taps
from pipeline.ipc import messages
from pipeline.links import addresses, protocols, stdio, vnet
from pipeline.links.inherited import SCHEME as FD
from pipeline.links.inherited import Inherited

_OWN_FLAGS: Final = (protocols.VPNKIT, protocols.QEMU, protocols.BESS, protocols.VFKIT, protocols.VHOST_USER)


class GuestSockets:
    """These places, as the configuration has them."""

    def __init__(self, config: Config, program: Program, taps: Mapping[str, int], given: Given) -> None:
        """taps: those that the program has opened itself. They are this object's from now on.

        given: sockets that exist already.
        """
        self._config = config
        self._given = given
        self._program = program
        self._taps = Taps(taps)
        self._stdio: tuple[int, int] | None = None

    def urls(self) -> Iterator[tuple[str, str]]:
        """Protocol and URL of each socket and tap, in the order in which they are bound. Without stdio."""
        for protocol in _OWN_FLAGS:
            if url := getattr(self._config.links, protocol.replace("-", "_")):
                yield protocol, url
        yield from self._config.links.further

    def adopt_taps(self, given: Given) -> None:
        """Take the taps that a predecessor has opened: only one process can open each."""
        self._taps.add(given.take_all(protocols.TAP))

    @property
    def only_stdio(self) -> bool:
        """Whether guests can arrive only on standard input and output."""
        links = self._config.links
        return not (links.listen or links.listen_connect or any(self.urls()))

    @property
    def fds(self) -> list[int]:
        """The descriptors that are open now."""
        return [*self._taps.fds, *(self._stdio or ())]

    def claim(self, inherited: Inherited) -> None:
        """Claim what a parent has passed. Raises AddressError, TapsError."""
        for protocol, url in self.urls():
            if not url.startswith(FD) or (protocol, url) in self._given or url in self._taps:
                continue
            if protocol == protocols.TAP:
                self._taps.adopt(url, inherited.claim_file(url))
            else:
                inherited.claim(url)

    def take(self, *, stdio_given: bool = False) -> None:
        """Take stdio and open the taps. Call this before any thread exists. Raises OSError, TapsError.

        stdio_given: a predecessor has taken stdio.
        """
        if self._config.links.stdio and not stdio_given:
            self._stdio = stdio.take()
        places = (url for protocol, url in self.urls() if protocol == protocols.TAP)
        self._taps.open(places, self._config.network.mtu)

    def reserve(self, inherited: Inherited) -> None:
        """Bind the sockets that are not there yet, so that hand_over() cannot fail. Raises AddressError."""
        for protocol, url in self.urls():
            if protocol != protocols.TAP and (protocol, url) not in self._given:
                self._given.reserve((protocol, url), protocols.bind(protocol, url, inherited))

    async def hand_over(
        self,
        plane: ControlPlane,
        inherited: Inherited,
        keep: Callable[[str], None],
        report: Callable[[str, str], None],
    ) -> None:
        """Bind the sockets, and let ingress accept guests. Raises AddressError.

        keep: called with the path of each socket file. report: called with each protocol and its bound URL.
        """
        for protocol, url in self.urls():
            if protocol == protocols.TAP:
                with self._taps.lent(url) as fd:
                    await self._accept(plane, protocol, [fd], url, shared=url.startswith(FD))
                report(protocol, f"{protocol}+{url}")
                continue
            sock = self._given.take((protocol, url)) or protocols.bind(protocol, url, inherited)
            with sock:
                keep(addresses.socket_path(url))
                companions = protocols.companions(protocol)
                await self._accept(plane, protocol, [sock, *companions], url)
                for each in companions:
                    each.close()
                bound = addresses.bound_url(sock, url)
            report(protocol, bound)
        if self._stdio is not None:
            await self._accept(plane, protocols.STDIO, self._stdio)
        self._close_stdio()

    async def _accept(
        self,
        plane: ControlPlane,
        protocol: str,
        fds: list[socket.socket] | list[int] | tuple[int, int],
        url: str = "",
        *,
        shared: bool = False,
    ) -> None:
        once = self._program.ends_after(protocol)
        macs = self._config.network.vpnkit_macs
        is_vxlan = protocol == protocols.VXLAN
        taken = None if is_vxlan or protocol == protocols.TAP else vnet.guest_features(url)
        place = url if is_vxlan else None
        await plane.accept_guests(messages.Open(protocol, once, dict(macs), taken, shared, place), fds, url)

    def close(self) -> None:
        """Close what is still open."""
        self._taps.close()
        self._close_stdio()

    def _close_stdio(self) -> None:
        for fd in self._stdio or ():
            os.close(fd)
        self._stdio = None
