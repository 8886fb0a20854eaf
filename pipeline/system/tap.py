"""A tap: a network interface of the kernel whose frames a program reads and writes.

Linux only (tun.txt of the kernel's documentation). A Tap owns the descriptor of /dev/net/tun. When this is
closed, the interface vanishes unless it is persistent. With IFF_VNET_HDR in ``flags`` each frame begins with
a virtio-net header. offload() makes it 12 bytes long, and has the kernel leave work to the program
(TUNSETVNETHDRSZ and TUNSETOFFLOAD of linux/if_tun.h). A DHCP client or pipeline.system.netlink sets addresses
and routes.
"""

import os
import socket
import sys
from contextlib import suppress
from struct import Struct
from typing import Final

from pipeline.wire import offload as features_of

try:
    import fcntl
except ImportError:  # Windows, where nothing here is called
    fcntl = None  # type: ignore[assignment]

IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000

TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETIFF: Final = 0x400454CA
_TUNGETIFF: Final = 0x800454D2
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCGIFMTU: Final = 0x8921
_SIOCSIFMTU: Final = 0x8922
_SIOCSIFHWADDR: Final = 0x8924
_SIOCGIFHWADDR: Final = 0x8927
_SIOCGIFADDR: Final = 0x8915
_IFF_UP: Final = 0x1
_ARPHRD_ETHER: Final = 1

_IFREQ_FLAGS: Final = Struct("16sH22x")
_IFREQ_INT: Final = Struct("16si20x")
_IFREQ_MAC: Final = Struct("16sH6s16x")
_IFNAMSIZ: Final = 16
_INT: Final = Struct("i")
_USO: Final = features_of.USO4 | features_of.USO6


class Tap:
    """An open tap. ``fd`` is non-blocking. One read or write is one frame."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    @classmethod
    def open(cls, name: str, flags: int = IFF_TAP | IFF_NO_PI) -> "Tap":
        """Attach to the tap called name. Creates it if it does not exist.

        Raises OSError: EPERM without CAP_NET_ADMIN, EBUSY if another program has it, ENOENT without
        /dev/net/tun. Raises ValueError for an impossible name.
        """
        encoded = _interface(name)
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ_FLAGS.pack(encoded, flags))
        except OSError:
            os.close(fd)
            raise
        return cls(fd, _name_in(request))

    def set_mac(self, mac: bytes) -> None:
        """Set the MAC address of the interface, 6 bytes."""
        _control(_SIOCSIFHWADDR, _IFREQ_MAC.pack(self.name.encode(), _ARPHRD_ETHER, mac))

    def set_up(self) -> None:
        """Bring the interface up. Its other flags stay."""
        answer = _control(_SIOCGIFFLAGS, _IFREQ_FLAGS.pack(self.name.encode(), 0))
        _, flags = _IFREQ_FLAGS.unpack(answer)
        _control(_SIOCSIFFLAGS, _IFREQ_FLAGS.pack(self.name.encode(), flags | _IFF_UP))

    def mtu(self) -> int:
        """The MTU of the interface now: bytes of an IP packet, without the Ethernet header."""
        answer = _control(_SIOCGIFMTU, _IFREQ_INT.pack(self.name.encode(), 0))
        return int(_IFREQ_INT.unpack(answer)[1])

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU. OSError EINVAL outside 68 to 65521."""
        _control(_SIOCSIFMTU, _IFREQ_INT.pack(self.name.encode(), mtu))

    def close(self) -> None:
        """Close the descriptor. The interface vanishes unless it is persistent."""
        os.close(self.fd)


def offload(fd: int, features: int) -> int:
    """Have the kernel leave checksums and segmentation to this program. Returns the features it supports.

    features: of pipeline.wire.offload. The tap must have IFF_VNET_HDR. An old kernel supports fewer features.
    Without any it sends ordinary frames after headers of zeros. Raises OSError if it does not support headers
    of 12 bytes.
    """
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, _INT.pack(features_of.VNET_LEN))
    if sys.byteorder == "big":
        fcntl.ioctl(fd, _TUNSETVNETLE, _INT.pack(1))
    basic = features & (features_of.CSUM | features_of.TSO4)
    for wanted in (features, features & ~_USO, basic, features & features_of.CSUM):
        # The kernel takes UDP for both address families or for neither, and nothing without checksums.
        usable = wanted if wanted & _USO == _USO else wanted & ~_USO
        usable = usable if usable & features_of.CSUM else 0
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, usable)
        except OSError:
            continue
        return usable
    fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
    return 0


def end_offload(fd: int) -> None:
    """Switch offload off, for the next program that opens a persistent tap."""
    with suppress(OSError):  # the interface may already be deleted
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)


def name_and_flags(fd: int) -> tuple[str, int]:
    """The name and the flags (IFF_*) of the interface that a descriptor belongs to.

    Raises OSError if it belongs to none. The name is that of the last TUNSETIFF.
    """
    answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ_FLAGS.size))
    return _name_in(answer), int(_IFREQ_FLAGS.unpack(answer)[1])


def mac_of(interface: str) -> bytes:
    """The MAC address of any Ethernet interface, 6 bytes. Raises OSError if the interface does not exist."""
    answer = _control(_SIOCGIFHWADDR, _IFREQ_MAC.pack(_interface(interface), 0, b""))
    return bytes(_IFREQ_MAC.unpack(answer)[2])


def has_address(interface: str) -> bool:
    """Whether the interface has an IPv4 address."""
    try:
        _control(_SIOCGIFADDR, _IFREQ_INT.pack(_interface(interface), 0))
    except OSError:  # EADDRNOTAVAIL, or the interface is gone
        return False
    return True


def _control(operation: int, request: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        return fcntl.ioctl(control.fileno(), operation, request)


def _interface(name: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) < _IFNAMSIZ or b"/" in encoded or b"\0" in encoded:
        raise ValueError(f"not an interface name: {name!r}")
    return encoded


def _name_in(request: bytes) -> str:
    return request[:_IFNAMSIZ].rstrip(b"\0").decode()
