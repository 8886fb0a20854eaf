"""Sockets that exist before the daemon opens its places: a predecessor has given them, or they are reserved.

Each has the protocol and the URL of its place. take() passes a socket on once.
"""

import socket
from collections.abc import Sequence

from pipeline.ipc.channel import close_all
from pipeline.links import addresses
from pipeline.system import socket_file

Key = tuple[str, str]
"""The protocol of guests' links ("" for an endpoint of the API), and the URL."""


class Given:
    """The descriptors by place. It owns them until they are taken."""

    def __init__(self) -> None:
        self._fds: dict[Key, list[int]] = {}
        self._files: dict[Key, socket_file.OwnFile] = {}
        """The files of sockets."""
        self._reserved: set[Key] = set()
        """Places that this process has bound itself."""

    def __contains__(self, key: Key) -> bool:
        return key in self._fds

    @property
    def fds(self) -> list[int]:
        """All that were not taken."""
        return [fd for fds in self._fds.values() for fd in fds]

    def add(self, key: Key, fds: Sequence[int]) -> None:
        """A predecessor has these descriptors of a place. They are this object's."""
        if key in self._fds:
            close_all(fds)
            return
        self._fds[key] = list(fds)
        if path := addresses.socket_path(key[1]):
            self._files[key] = socket_file.OwnFile(path, bound=True)

    def reserve(self, key: Key, sock: socket.socket) -> None:
        """This process has just bound the socket of a place. It is this object's."""
        self._reserved.add(key)
        self.add(key, [sock.detach()])

    def take(self, key: Key) -> socket.socket | None:
        """The socket of a place, which is the caller's from now on. None if there is none."""
        fds = self.take_fds(key)
        if not fds:
            return None
        close_all(fds[1:])
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        return sock

    def take_fds(self, key: Key) -> list[int]:
        """All descriptors of a place, which are the caller's from now on."""
        if (file := self._files.pop(key, None)) is not None:
            file.forget()
        self._reserved.discard(key)
        return self._fds.pop(key, [])

    def take_all(self, protocol: str) -> dict[str, int]:
        """The first descriptor of each place of a protocol, by URL. They are the caller's from now on."""
        urls = [url for kind, url in self._fds if kind == protocol]
        found = {}
        for url in urls:
            first, *others = self.take_fds((protocol, url))
            close_all(others)
            found[url] = first
        return found

    def close(self, *, keep_files: bool) -> None:
        """Close what was not taken, and remove its files. keep_files: those of a predecessor stay."""
        for key, file in self._files.items():
            if not keep_files or key in self._reserved:
                file.remove()
        self._files.clear()
        self._reserved.clear()
        close_all(self.fds)
        self._fds.clear()
