"""The peers of perf.families that have no program: what both families cost the kernels alone.

====================  =============================================================================
peer                  how the client reaches the server
====================  =============================================================================
``kernels``           over a veth between guest and host without offload: the guest's kernel cuts
                      and sums every frame, as for the card of a QEMU without offload
``kernels-offload``   over a veth with offload: packets cross in one piece, as with the agent
``kernels-loopback``  over the host's loopback, as a daemon reaches its servers. The guest is idle
====================  =============================================================================

A daemon joins two connections: one of the guest's kernel, and one of the host's kernel over loopback. No
kernel joins them by itself, so each is a peer of its own. The veth stands for the tap, the socket to the
daemon, and its half of the guest's connection. What these cost is not in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from perf.namespaces import Namespace, World
from perf.peers import LOOPBACK, LOOPBACK6, Endpoint, PeerError, configure_guest

KERNELS: Final = "kernels"
OFFLOAD: Final = "kernels-offload"
ALONE: Final = "kernels-loopback"
NAMES: Final = (KERNELS, OFFLOAD, ALONE)

_GUEST, _HOST = "192.168.127.2", "192.168.127.1"
_GUEST6, _HOST6 = "fd00::2", "fd00::1"
_DEVICE: Final = "eth0"

# The ioctl takes a struct ifreq: a name, and a pointer to a command of ethtool with its value, 0 for off.
_NO_OFFLOAD: Final = """
import ctypes, fcntl, socket, struct, sys
SIOCETHTOOL, STXCSUM, STSO = 0x8946, 0x17, 0x1F
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
    for command in (STXCSUM, STSO):
        value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
        request = struct.pack("16sP16x", sys.argv[1].encode(), ctypes.addressof(value))
        fcntl.ioctl(handle, SIOCETHTOOL, request)
"""


def where(peer: str, place: World) -> World:
    """The namespaces in which the clients and servers of a peer run."""
    return World(place.host, place.host) if peer == ALONE else place


@contextmanager
def running(peer: str, place: World, mtu: int, *, ipv6: bool = False) -> Iterator[Endpoint]:
    """Join the namespaces. The veth is gone when one of them is. ipv6: over both families.

    Raises PeerError.
    """
    host_addr, host_addr6 = LOOPBACK, LOOPBACK6
    if peer != ALONE:
        try:
            _join(place, mtu, ipv6=ipv6)
            if peer == KERNELS:
                for namespace in place:
                    without_offload(namespace, _DEVICE)
        except (RuntimeError, OSError) as problem:
            raise PeerError(f"{peer}: {problem}") from problem
        host_addr, host_addr6 = _HOST, _HOST6
    yield Endpoint(peer, host_addr, host_addr6, 0, Path(os.devnull), host_addr, host_addr6)


def _join(place: World, mtu: int, *, ipv6: bool) -> None:
    """A veth between the namespaces, with addresses at both ends."""
    guest, host = place
    end = ("type", "veth", "peer", "name", _DEVICE, "mtu", str(mtu), "netns", str(guest.pid))
    host.run("ip", "link", "add", _DEVICE, "mtu", str(mtu), *end)
    host.run("ip", "address", "add", f"{_HOST}/24", "dev", _DEVICE)
    host.run("ip", "link", "set", _DEVICE, "up")
    configure_guest(guest, mtu, _GUEST, _HOST)
    if ipv6:
        guest.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
        for namespace, address in ((guest, _GUEST6), (host, _HOST6)):
            namespace.run("ip", "-6", "address", "add", f"{address}/64", "dev", _DEVICE, "nodad")


def without_offload(namespace: Namespace, device: str) -> None:
    """Have the kernel cut and sum each frame before it gives it to the device."""
    namespace.run(sys.executable, "-c", _NO_OFFLOAD, device)
