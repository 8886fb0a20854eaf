"""Looks at one network interface of another network namespace, without going there.

A socket belongs to the namespace in which it was made, and the kernel answers its requests from there. So a
child process makes one (View.make), and this process asks through it. The socket keeps the namespace alive.
Linux only.
"""

import socket
from struct import Struct
from typing import Final

try:
    import fcntl
except ImportError:  # Windows, where nothing here is called
    fcntl = None  # type: ignore[assignment]

_SIOCGIFNAME: Final = 0x8910
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFINDEX: Final = 0x8933
_IFREQ_INT: Final = Struct("16si20x")


class View:
    """A socket of the namespace. Programs there may rename an interface, so its index identifies it."""

    def __init__(self, fd: int) -> None:
        """fd: of make(). The view owns it."""
        self._socket = socket.socket(fileno=fd)

    @staticmethod
    def make() -> int:
        """A descriptor for a view of the namespace in which the caller is now."""
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC).detach()

    def index(self, name: str) -> int:
        """The index of the interface with this name, 0 if there is none."""
        answer = self._ask(_SIOCGIFINDEX, name.encode(), 0)
        return int(_IFREQ_INT.unpack(answer)[1]) if answer else 0

    def name(self, index: int) -> str:
        """The name of an interface now, "" if it is gone."""
        answer = self._ask(_SIOCGIFNAME, b"", index)
        return _IFREQ_INT.unpack(answer)[0].rstrip(b"\0").decode("utf-8", "replace") if answer else ""

    def has_address(self, index: int) -> bool:
        """Whether the interface is there and has an IPv4 address."""
        name = self.name(index)
        return bool(name) and bool(self._ask(_SIOCGIFADDR, name.encode(), 0))

    def close(self) -> None:
        """Let go of the namespace. May be called twice."""
        self._socket.close()

    def _ask(self, operation: int, name: bytes, number: int) -> bytes:
        try:
            return fcntl.ioctl(self._socket.fileno(), operation, _IFREQ_INT.pack(name, number))
        except OSError:  # ENODEV, or EADDRNOTAVAIL
            return b""
