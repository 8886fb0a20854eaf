"""Several hosts with guests, for tests of links between hosts.

    guest i.0 ... guest i.n       host i                                wire
    (lo; taps that the            veth0 198.19.0.(i + 1)/24   -------   a bridge; 198.19.0.99/24
     daemon opens)

The names and the end of the namespaces are as in tests.support.netns.
"""

import atexit
import itertools
import os
import shutil
import tempfile
from pathlib import Path

from tests.support.netns import Namespace, Network, sweep

STRANGER_ADDR = "198.19.0.99"
VNI = 7
_SERIAL = itertools.count()


def host_addr(number: int, *, ipv6: bool = False) -> str:
    """The address of a host on the wire."""
    return f"fd00:19::{number + 1}" if ipv6 else f"198.19.0.{number + 1}"


class FleetHost(Network):
    """One host with its guests. Fleet makes it."""

    def __init__(self, number: int, host: Namespace, guests: list[Namespace], directory: Path) -> None:
        self.number = number
        self.host = host
        self.guests = guests
        self.directory = directory

    def close(self) -> None:
        """Nothing: the fleet closes all hosts."""

    def link(self, *others: int, vni: int = VNI, ipv6: bool = False) -> tuple[str, str]:
        """The flag of the link to other hosts."""
        remotes = ",".join(host_addr(other, ipv6=ipv6) for other in others)
        local = host_addr(self.number, ipv6=ipv6)
        return "-link", f"vxlan+udp://{f'[{local}]' if ipv6 else local}?vni={vni}&remote={remotes}"

    def fleet_link(self) -> tuple[str, str]:
        """The flag of the link to other hosts, which the fleet knows."""
        return "-link", f"vxlan+udp://{host_addr(self.number)}?vni={VNI}"

    def tap(self, guest: int = 0, mac: str = "") -> tuple[str, str]:
        """The flag of a guest's tap."""
        more = f"&mac={mac}" if mac else ""
        return "-link", f"tap+eth0?netns={self.guests[guest].name}{more}"


class Fleet:
    """The hosts and the wire between them."""

    def __init__(self, count: int, guest_count: int = 1) -> None:
        """Make everything. After a failure, remove what was already made."""
        sweep()
        prefix = f"gvp{os.getpid()}-fleet{next(_SERIAL)}"
        self._made: list[Namespace] = []
        self._directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
        atexit.register(self.close)
        try:
            self.wire = self._make(f"{prefix}-wire")
            self.wire.ip("link", "add", "br0", "type", "bridge")
            self.wire.ip("address", "add", f"{STRANGER_ADDR}/24", "dev", "br0")
            self.wire.ip("link", "set", "br0", "up")
            self.hosts = [self._add(prefix, number, guest_count) for number in range(count)]
        except BaseException:
            self.close()
            raise

    def _add(self, prefix: str, number: int, guest_count: int) -> FleetHost:
        host = self._make(f"{prefix}-host{number}")
        port = f"port{number}"
        host.ip("link", "add", "veth0", "type", "veth", "peer", "name", port, "netns", self.wire.name)
        self.wire.ip("link", "set", port, "master", "br0", "up")
        host.ip("address", "add", f"{host_addr(number)}/24", "dev", "veth0")
        host.ip("-6", "address", "add", f"{host_addr(number, ipv6=True)}/64", "dev", "veth0", "nodad")
        host.ip("link", "set", "veth0", "up")
        guests = [self._make(f"{prefix}-guest{number}{each}") for each in range(guest_count)]
        directory = self._directory / str(number)
        directory.mkdir()
        return FleetHost(number, host, guests, directory)

    def _make(self, name: str) -> Namespace:
        namespace = Namespace(name)
        self._made.append(namespace)
        return namespace

    def close(self) -> None:
        """Remove everything. May be called twice."""
        atexit.unregister(self.close)
        while self._made:
            self._made.pop().close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
