"""Open vSwitch in user space, in the namespace of a host: no kernel module, no root daemon of the machine.

::

    br0 (the guest of this host: the bridge's own interface)   veth0
      |                                                         |
      vx7: vxlan, to one other host                          br-phy (the host's address)

Both bridges are of the datapath ``netdev``. What vx7 sends leaves by the bridge that has a route to the other
host.

In user space the switch reads each frame as the kernel hands it over. On a veth that is before a card would
have cut it and completed its checksum, and it drops such frames. So the other host completes its frames
itself (send_whole).
"""

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

from tests.support.fleet import VNI, FleetHost, host_addr
from tests.support.netns import Namespace, wait_for

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl")
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
BRIDGE = "br0"
PHYSICAL = "br-phy"
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17


def missing() -> str:
    """Why it cannot run; "" if it can."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if not SCHEMA.exists():
        absent.append(str(SCHEMA))
    return f"needs {', '.join(absent)}" if absent else ""


def send_whole(host: Namespace, device: str) -> None:
    """Have the kernel complete the checksums of what leaves by a device, as for a card without offload."""

    def switch_off() -> None:
        value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
        request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)

    host.call(switch_off)


class OpenVswitch:
    """A switch whose bridge ``br0`` is in the network of a fleet, without a daemon of this program."""

    def __init__(self, host: FleetHost, other: int, address: str) -> None:
        """other: number of the host at the far end. address: of the guest, in the fleet's network."""
        self._host = host
        self._other = other
        self._address = address
        self._directory = host.directory / "ovs"
        self._processes: list[subprocess.Popen[bytes]] = []

    def _start(self, *argv: str) -> None:
        with (self._directory / "log").open("ab") as log:
            words = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            env = {**os.environ, "OVS_RUNDIR": str(self._directory)}
            self._processes.append(self._host.host.popen(argv, env=env, **words))

    def _path(self, name: str) -> str:
        return str(self._directory / name)

    def _set(self, *words: str) -> None:
        self._host.host.run("ovs-vsctl", f"--db=unix:{self._path('db.sock')}", "--timeout=10", *words)

    def __enter__(self) -> "OpenVswitch":
        self._directory.mkdir()
        host = self._host.host
        host.run("ovsdb-tool", "create", self._path("conf.db"), str(SCHEMA))
        control = f"--unixctl={self._path('db.ctl')}"
        self._start("ovsdb-server", f"--remote=punix:{self._path('db.sock')}", control, self._path("conf.db"))
        wait_for(lambda: Path(self._path("db.sock")).exists(), "the database", 10.0)
        self._set("--no-wait", "init")
        self._start("ovs-vswitchd", f"unix:{self._path('db.sock')}", f"--unixctl={self._path('switch.ctl')}")
        for bridge in (PHYSICAL, BRIDGE):
            self._set("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev")
        self._set("add-port", PHYSICAL, "veth0")
        host.ip("address", "flush", "dev", "veth0")
        host.ip("address", "add", f"{host_addr(self._host.number)}/24", "dev", PHYSICAL)
        host.ip("link", "set", PHYSICAL, "up")
        options = (f"options:key={VNI}", f"options:remote_ip={host_addr(self._other)}")
        self._set("add-port", BRIDGE, "vx7", "--", "set", "interface", "vx7", "type=vxlan", *options)
        host.ip("link", "set", BRIDGE, "mtu", "1450", "up")
        host.ip("address", "add", f"{self._address}/24", "dev", BRIDGE)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait(10.0)
