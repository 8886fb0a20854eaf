"""The programs as which the daemon runs, and what a program may add to it."""

import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from pipeline.config.choices import AUTO, OFF
from pipeline.config.model import GuestApi
from pipeline.control.plane import ControlPlane
from pipeline.links import protocols

ONE_GUEST: Final = frozenset({protocols.QEMU, protocols.BESS, protocols.VFKIT, protocols.STDIO})
"""Protocols for which gvproxy serves one guest, and ends when this guest leaves."""


class Program(NamedTuple):
    """One of the programs.

    ``one_guest``: of a protocol in ONE_GUEST, serve only the first guest, and end when it leaves.
    ``guests``: what guests may do through the API if the configuration has no guest-api.
    ``ipv6``: whether guests have IPv6 if the configuration does not say it.
    ``ends_with``: protocols whose guest is the only one, with which the program ends.
    ``restarts``: whether it can be replaced by a new version of itself.
    """

    name: str
    one_guest: bool = False
    guests: GuestApi = GuestApi()
    ipv6: str = AUTO
    ends_with: frozenset[str] = frozenset()
    restarts: bool = False

    def ends_after(self, protocol: str) -> bool:
        """Whether the program ends when a guest of this protocol leaves."""
        return protocol in self.ends_with or (self.one_guest and protocol in ONE_GUEST)


OWN: Final = Program("gvtap-pipeline", restarts=sys.platform == "linux")
GVPROXY: Final = Program("gvproxy", one_guest=True, guests=GuestApi(unix=True), ipv6=OFF)
"""The original's own clients open unix forwards from the guest, and none of them over ssh. It has no IPv6."""
SLIRP4NETNS: Final = Program(
    "gvtap-slirp4netns",
    guests=GuestApi(enabled=False),
    ipv6=OFF,
    ends_with=frozenset({protocols.TAP, protocols.BESS}),
)


class Companion(Protocol):
    """What a program adds to the daemon."""

    @property
    def fds(self) -> Sequence[int]:
        """Descriptors that no worker may keep."""

    async def opened(self, plane: ControlPlane, stop: Callable[[str], None]) -> None:
        """The network works. stop(reason) ends the daemon in order."""

    def close(self) -> None:
        """The daemon has ended."""
