"""Opens a tap, also one in another network namespace, for which no process of the daemon goes there.

A child process enters the namespaces, and passes the descriptor back. If the interface exists, the child
opens it where it is. If not, it makes it in a namespace of its own and moves it. The descriptor of a tap
keeps the namespace in which it was opened. So a tap that was moved does not keep the guest's namespace alive:
when the last process there ends, the interface vanishes, and the link ends. A tap that existed before does
keep its namespace.
"""

import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from pipeline.links.tap_url import TapPlace
from pipeline.system import namespaces, netlink
from pipeline.system.namespaces import CLONE_NEWNET, CLONE_NEWUSER, NamespaceError, doing
from pipeline.system.tap import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, Tap

Configure = Callable[[str], None]
"""What else to do in the tap's namespace, with its name. Raises OSError or NamespaceError."""

_FLAGS: Final = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
_MULTI_QUEUE: Final = 0x0100
_RIGHTS: Final = {
    errno.EPERM: " (it needs CAP_NET_ADMIN there)",
    errno.EACCES: " (this user may not open /dev/net/tun)",
    errno.ENOENT: " (there is no /dev/net/tun)",
    errno.EBUSY: " (another program has it open)",
}


def open_tap(place: TapPlace, mtu: int, configure: Configure | None = None) -> int:
    """The descriptor of the tap, with virtio-net headers. Raises NamespaceError.

    An interface that does not exist is made with this MTU and brought up. configure runs in its namespace.
    """
    if not place.netns and not place.userns:
        return namespaces.run_inside(lambda: [_open_here(place, mtu, configure)])[0]
    netns = namespaces.open_namespace(place.netns or "/proc/self/ns/net", CLONE_NEWNET)
    userns = -1
    try:
        if place.userns:
            userns = namespaces.open_namespace(place.userns, CLONE_NEWUSER)
        else:
            userns = namespaces.owner_to_enter(netns)
        return namespaces.run_inside(lambda: [_open_there(place, mtu, configure, netns, userns)])[0]
    finally:
        os.close(netns)
        if userns >= 0:
            os.close(userns)


def _open_here(place: TapPlace, mtu: int, configure: Configure | None) -> int:
    is_new = not _exists(place.name)
    tap = _open(place.name)
    if is_new:
        _set_up(tap, place.mac, mtu)
        _bring_up(tap.name)
    _configure(place.name, configure)
    return tap.fd


def _open_there(place: TapPlace, mtu: int, configure: Configure | None, netns: int, userns: int) -> int:
    if userns >= 0 and not namespaces.is_own_userns(userns):
        with doing(f"enter the user namespace {place.userns or 'of ' + place.netns}"):
            namespaces.enter(userns, CLONE_NEWUSER)
    with doing(f"enter the network namespace {place.netns}"):
        namespaces.enter(netns, CLONE_NEWNET)
    if _exists(place.name):
        tap = _open(place.name)
    else:
        tap = _make(place, mtu, netns)
    _configure(place.name, configure)
    return tap.fd


def _make(place: TapPlace, mtu: int, netns: int) -> Tap:
    """Make the tap elsewhere, and move it to the namespace, which this process has entered afterwards."""
    with doing("make a network namespace"):
        namespaces.leave(CLONE_NEWNET)
    tap = _open(place.name)
    _set_up(tap, place.mac, mtu)
    with doing(f"move {place.name} to {place.netns}"):
        netlink.move(place.name, netns)
    with doing(f"enter the network namespace {place.netns}"):
        namespaces.enter(netns, CLONE_NEWNET)
    _bring_up(place.name)
    return tap


def _open(name: str) -> Tap:
    try:
        try:
            return Tap.open(name, _FLAGS)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return Tap.open(name, _FLAGS | _MULTI_QUEUE)
    except OSError as error:
        words = os.strerror(error.errno or 0).lower()
        right = _RIGHTS.get(error.errno or 0, "")
        if error.errno == errno.EINVAL:
            words = "an interface of this name is there, and it is not a tap"
        raise NamespaceError(f"cannot open the tap {name}: {words}{right}") from error


def _set_up(tap: Tap, mac: bytes, mtu: int) -> None:
    if mac:
        with doing(f"give {tap.name} the address {mac.hex(':')}"):
            tap.set_mac(mac)
    with doing(f"set the MTU {mtu} of {tap.name}"):
        tap.set_mtu(mtu)


def _bring_up(name: str) -> None:
    with doing(f"bring {name} up"):
        netlink.set_up(name)


def _configure(name: str, configure: Configure | None) -> None:
    if configure is not None:
        with doing(f"configure {name}"):
            configure(name)


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
