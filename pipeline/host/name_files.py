"""Reads the host's name service files: resolv.conf (upstream servers) and hosts (names and addresses).

Both are checked at most once a second, and read again when they have changed: a new VPN or another network
replaces them. The bytes read are bounded. Other sources of names (nsswitch modules, mDNS, NetBIOS) are not
asked.
"""

import os
import socket
import stat
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from pipeline.system import inet

RESOLV_CONF: Final = "/etc/resolv.conf"
HOSTS: Final = "/etc/hosts"
CHECK_SECONDS: Final = 1.0
MAX_SERVERS: Final = 3
"""The C library uses the same number."""
MAX_RESOLV_CONF: Final = 64 * 1024
MAX_HOSTS: Final = 8 << 20
MAX_HOST_NAMES: Final = 1 << 18
MAX_ADDRESSES: Final = 64
"""The most addresses of one name."""
DNS_PORT: Final = 53


class Server(NamedTuple):
    """An upstream name server: address family and socket address, as getaddrinfo gives them."""

    family: int
    address: tuple[object, ...]


class WatchedFile:
    """A file that is read again when it has changed."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._identity: tuple[int, ...] | None = ()
        self._check_at = float("-inf")

    def changed(self, now: float) -> bool:
        """Whether the file has changed since this last returned True. The first call returns True."""
        if now < self._check_at:
            return False
        self._check_at = now + CHECK_SECONDS
        try:
            status = os.stat(self.path)
            identity: tuple[int, ...] | None = (
                status.st_dev,
                status.st_ino,
                status.st_mtime_ns,
                status.st_size,
            )
        except OSError:
            identity = None
        if identity == self._identity:
            return False
        self._identity = identity
        return True

    def text(self) -> str:
        """The content, up to max_bytes; empty if it is not a regular file or cannot be read."""
        try:
            with open(self.path, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return ""
                return file.read(self.max_bytes).decode("utf-8", "replace")
        except OSError:
            return ""


class ServerList:
    """The servers of a resolv.conf, except ``exclude``: our own addresses, which would make a loop."""

    def __init__(self, path: str = RESOLV_CONF, exclude: Collection[str] = (), port: int = DNS_PORT) -> None:
        self.servers: tuple[Server, ...] = ()
        self._file = WatchedFile(path, MAX_RESOLV_CONF)
        self._exclude = frozenset(exclude)
        self._port = port

    def refresh(self, now: float) -> bool:
        """Read the file again if it has changed. Returns whether the servers have changed."""
        if not self._file.changed(now):
            return False
        # If the file names no server, the C library asks this host.
        names = parse_resolv_conf(self._file.text()) or ["127.0.0.1"]
        servers = tuple(
            server
            for name in names
            if name not in self._exclude and (server := server_of(name, self._port)) is not None
        )
        changed = servers != self.servers
        self.servers = servers
        return changed


class FixedServers:
    """Servers that the configuration names."""

    def __init__(self, places: Sequence[str]) -> None:
        """places: numeric addresses with ports, those of IPv6 in brackets."""
        found = (place.rpartition(":") for place in places)
        self.servers = tuple(
            server
            for host, _, port in found
            if (server := server_of(host.strip("[]"), int(port))) is not None
        )
        self._is_read = False

    def refresh(self, now: float) -> bool:
        """Whether this is the first call: the servers never change."""
        first = not self._is_read
        self._is_read = True
        return first


class HostsFile:
    """The names of a hosts file and their addresses (4 or 16 bytes)."""

    def __init__(self, path: str = HOSTS) -> None:
        self.names: dict[str, list[bytes]] = {}
        self._file = WatchedFile(path, MAX_HOSTS)

    def refresh(self, now: float) -> bool:
        """Read the file again if it has changed. Returns whether the names have changed."""
        if not self._file.changed(now):
            return False
        names = parse_hosts(self._file.text())
        changed = names != self.names
        self.names = names
        return changed


def parse_resolv_conf(text: str) -> list[str]:
    """The first MAX_SERVERS addresses of ``nameserver`` lines, as text."""
    servers: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and len(servers) < MAX_SERVERS:
            servers.append(words[1])
    return servers


def server_of(name: str, port: int = DNS_PORT) -> Server | None:
    """The server with this address, perhaps with a zone (``fe80::1%eth0``). None if it is not an address."""
    try:
        # Only numeric addresses: this asks no name server and does not block.
        host = inet.lookup_name(name)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    family, _, _, _, address = found[0]
    return Server(family, address)


def parse_hosts(text: str) -> dict[str, list[bytes]]:
    """Names in lower case -> packed addresses in the file's order. Malformed lines are left out."""
    names: dict[str, list[bytes]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        packed = _packed(words[0])
        if packed is None:
            continue
        for word in words[1:]:
            name = word.lower()
            if name not in names and len(names) >= MAX_HOST_NAMES:
                return names
            addresses = names.setdefault(name, [])
            if packed not in addresses and len(addresses) < MAX_ADDRESSES:
                addresses.append(packed)
    return names


def _packed(text: str) -> bytes | None:
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        return None
