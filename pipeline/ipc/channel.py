"""Control messages over unix sockets: one msgpack map for each packet, with open descriptors (SCM_RIGHTS).

The supervisor exchanges them with the workers, and a worker hands sockets to another one with them.
message_table.py has the maps. A channel never blocks. A packet that the socket does not take now waits
here, with duplicates of its descriptors. So the caller may close its own descriptors at once.

The kernel's send buffer limits the length of a packet, and an ordinary user may not raise that limit. A
longer message is written to a file without a name, and a packet carries this file as its first descriptor.

A process at its limit of open descriptors receives packets without their descriptors. ``receive`` does not
return such messages; ``take_lost`` does.
"""

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgpack

from pipeline.ipc.transport import PACKET_BYTES, transport_of

MAX_MESSAGE: Final = 64 * 1024 * 1024
"""Bytes of one message."""

_FILED: Final = "in a file"
"""Key of a packet whose message is in the file that it carries. The packet has the message's id too."""
_NOT_NOW: Final = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""Errors that may pass: too many descriptors are in flight between sockets, or memory is short."""


class HasFileno(Protocol):
    """A socket, or anything else with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class ControlChannel:
    """One end of a control socket. It owns the socket from now on, and makes it non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._transport = transport_of(sock)
        self.ended = False
        """Whether the other end is closed. Then no message arrives, and sent messages are lost."""
        self._reset = False
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._lost: list[dict[str, object]] = []

    def fileno(self) -> int:
        """The socket's descriptor, for a poller."""
        return self.sock.fileno()

    @property
    def backlog(self) -> int:
        """Number of messages that wait for the socket. While there are any, call flush() again soon."""
        return len(self._outbox) + self._transport.unsent

    def send(self, message: dict[str, object], fds: Sequence[int | HasFileno] = ()) -> None:
        """Send one message with descriptors. The caller keeps these and may close them.

        Raises OSError if the message is longer than MAX_MESSAGE, or if it needs a descriptor and none is
        left. A short message without descriptors never fails.
        """
        packet = msgpack.packb(message)
        numbers = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
        if len(packet) <= PACKET_BYTES:
            self._send(packet, numbers)
        elif len(packet) > MAX_MESSAGE:
            raise OSError(errno.EMSGSIZE, f"a control message of {len(packet)} bytes is too long")
        else:
            file = _file(packet)
            try:
                head = {key: value for key, value in message.items() if key in ("id", "event")}
                self._send(msgpack.packb({_FILED: True, **head}), [file, *numbers])
            finally:
                os.close(file)

    def flush(self) -> bool:
        """Send the messages that wait. Returns whether all of them are sent."""
        while self._outbox:
            packet, fds = self._outbox[0]
            if not self._try(packet, fds):
                return False
            self._outbox.popleft()
            close_all(fds)
        return not self._transport.unsent or self._try_flush()

    def receive(self) -> list[tuple[dict[str, object], list[int]]]:
        """All complete messages, each with its descriptors. The caller owns these."""
        messages: list[tuple[dict[str, object], list[int]]] = []
        while not self.ended:
            try:
                packet, fds, flags = self._transport.receive()
            except BlockingIOError:
                break
            except ConnectionResetError:
                if not self._reset:
                    # The other end was closed before it had read all. What it sent before that is still here.
                    self._reset = True
                    continue
                packet, fds, flags = b"", [], 0
            if not packet:
                close_all(fds)  # of a packet that the end of the stream cut off
                self.ended = True
                break
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                close_all(fds)
                self._lost.append({} if flags & socket.MSG_TRUNC else _unpack(packet))
                continue
            message = _unpack(packet)
            if _FILED in message:
                file = fds.pop(0)
                try:
                    message = _unpack(_content(file))
                finally:
                    os.close(file)
            messages.append((message, fds))
        return messages

    def take_lost(self) -> list[dict[str, object]]:
        """Messages that came without their descriptors since the last call. A long one has its id alone."""
        lost, self._lost = self._lost, []
        return lost

    def close(self) -> None:
        """Close the socket and the descriptors of messages that waited for it."""
        for _, fds in self._outbox:
            close_all(fds)
        self._outbox.clear()
        self.sock.close()

    def _send(self, packet: bytes, fds: list[int]) -> None:
        if self._outbox or not self._try(packet, fds):
            self._outbox.append((packet, _duplicates(fds)))

    def _try(self, packet: bytes, fds: list[int]) -> bool:
        return self._attempt(lambda: self._transport.send(packet, fds))

    def _try_flush(self) -> bool:
        return self._attempt(self._transport.flush)

    def _attempt(self, send: Callable[[], None]) -> bool:
        """Call send. Returns False if the socket has no room now; True also if the other end is gone."""
        try:
            send()
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
            self.ended = True  # no reader is left
        except OSError as error:
            if error.errno in _NOT_NOW:
                return False
            raise
        return True


def close_all(fds: Sequence[int]) -> None:
    """Close the descriptors."""
    for fd in fds:
        os.close(fd)


def _duplicates(fds: list[int]) -> list[int]:
    """A duplicate of each descriptor. Raises OSError, and then leaves no duplicate open."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401 (duplicates made before a failure are closed)
    except OSError:
        close_all(copies)
        raise
    return copies


def _file(content: bytes) -> int:
    """A file without a name, with this content."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("gvtap-message")
    else:
        import tempfile  # noqa: PLC0415  Linux does not need it

        with tempfile.TemporaryFile() as named:
            file = os.dup(named.fileno())
    try:
        remaining = memoryview(content)
        while remaining:
            written = os.write(file, remaining)
            remaining = remaining[written:]
    except OSError:
        os.close(file)
        raise
    return file


def _content(file: int) -> bytes:
    parts = []
    offset = 0
    while part := os.pread(file, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _unpack(packet: bytes) -> dict[str, object]:
    message: dict[str, object] = msgpack.unpackb(packet, strict_map_key=False)
    return message
