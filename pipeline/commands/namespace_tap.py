"""Opens the tap of gvtap-slirp4netns, before the daemon is loaded.

Callers of slirp4netns expect the interface at once. Loading the daemon takes some tenths of a second.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from pipeline.config.slirp4netns import Options, mac_of, place
from pipeline.links.tap_opener import open_tap
from pipeline.system import netlink


class NamespaceTap(NamedTuple):
    """The open tap. Without one, for --target-type=bess, all is empty."""

    link: str = ""
    mac: bytes = b""
    fd: int = -1

    @property
    def fds(self) -> dict[str, int]:
        """The descriptor, by the link of the configuration that has it."""
        return {self.link: self.fd} if self.link else {}


def open_for(own: Options) -> NamespaceTap:
    """Open the tap of these options, and configure it. Raises NamespaceError."""
    if own.bess:
        return NamespaceTap()
    mac = mac_of(own, os.urandom(6))
    return NamespaceTap(own.name, mac, open_tap(place(own, mac), own.mtu, _configure(own)))


def _configure(own: Options) -> Callable[[str], None] | None:
    """What --configure does in the namespace, after the interface is up."""
    if not own.configure:
        return None

    def configure(name: str) -> None:
        netlink.set_up("lo")
        netlink.set_address(name, own.address, own.subnet.prefixlen)
        netlink.set_default_route(name, own.gateway)

    return configure
