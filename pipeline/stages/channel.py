"""Control messages: one msgpack map a packet on an AF_UNIX SOCK_SEQPACKET socket, descriptors beside it.

Used at both ends: supervisor and workers, and between workers that hand over sockets.
Never blocks: what the socket does not take now waits here, with duplicates of its
descriptors, so that the caller may close its own at once. No request semantics here.
"""

import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgpack

MAX_MESSAGE: Final = 256 * 1024
"""Bytes of one packet; the kernel's default send buffer ends below it."""
MAX_FDS: Final = 16
"""Descriptors beside one packet."""


class HasFileno(Protocol):
    """A socket, or anything else with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class ControlChannel:
    """One end of a control socket. Takes the socket over and makes it non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.ended = False
        """The other end is closed; nothing will come any more, what is sent is lost."""
        self._outbox: deque[tuple[bytes, list[int]]] = deque()

    def fileno(self) -> int:
        """For epoll."""
        return self.sock.fileno()

    @property
    def backlog(self) -> int:
        """Messages that wait for the socket: call flush() again soon."""
        return len(self._outbox)

    def send(self, message: dict[str, Any], fds: Sequence[int | HasFileno] = ()) -> None:
        """Send one message with descriptors, which stay the caller's. OSError if it is too long."""
        packet = msgpack.packb(message)
        numbers = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
        if self._outbox or not self._try(packet, numbers):
            self._outbox.append((packet, [os.dup(fd) for fd in numbers]))

    def flush(self) -> bool:
        """Send what waited; whether all of it is gone."""
        while self._outbox:
            packet, fds = self._outbox[0]
            if not self._try(packet, fds):
                return False
            self._outbox.popleft()
            _close_all(fds)
        return True

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """All messages that are there, each with its descriptors, which are the caller's now."""
        messages: list[tuple[dict[str, Any], list[int]]] = []
        while not self.ended:
            try:
                packet, fds, flags, _ = socket.recv_fds(
                    self.sock, MAX_MESSAGE, MAX_FDS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except ConnectionResetError:
                packet, fds, flags = b"", [], 0
            if not packet:
                self.ended = True
                break
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                _close_all(fds)
                raise ValueError(
                    "control message longer than MAX_MESSAGE or with more than MAX_FDS descriptors"
                )
            messages.append((msgpack.unpackb(packet, strict_map_key=False), fds))
        return messages

    def close(self) -> None:
        """Close the socket and everything that waited for it."""
        for _, fds in self._outbox:
            _close_all(fds)
        self._outbox.clear()
        self.sock.close()

    def _try(self, packet: bytes, fds: list[int]) -> bool:
        try:
            socket.send_fds(self.sock, [packet], fds, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
            self.ended = True  # nobody is left to read it
        return True


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
