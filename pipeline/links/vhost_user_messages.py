"""The socket of a vhost-user monitor: whole messages with their descriptors, and answers.

A message may come in pieces. Its descriptors come with its first byte. Bytes of the next message stay in the
socket, so descriptors never belong to another message.
"""

import os
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Final

from pipeline.engines.virtio.session import SessionError
from pipeline.wire import vhost_user as vu

_INT: Final = Struct("=i")


class MessageSocket:
    """A connected socket that does not block. It owns descriptors that have come and were not taken."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._header: vu.Header | None = None
        self._bytes = b""
        self._fds: list[int] = []
        self._ancillary = socket.CMSG_SPACE(vu.MAX_TABLE_REGIONS * _INT.size)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._sock.fileno()

    def receive(self) -> tuple[vu.Header, bytes, list[int]] | None:
        """Header, payload and descriptors of the next message. None: the monitor has left.

        The caller owns the descriptors. Raises BlockingIOError if the message is not whole, OSError,
        WireError or SessionError.
        """
        while True:
            header = self._header
            wanted = vu.HEADER_LEN if header is None else header.size
            # A message without payload is whole. A read of no bytes would look like the end.
            if len(self._bytes) < wanted and not self._read(wanted - len(self._bytes)):
                return None
            if len(self._bytes) < wanted:
                continue
            data, self._bytes = self._bytes, b""
            if header is None:
                self._header = vu.parse_header(data)
                continue
            self._header = None
            fds, self._fds = self._fds, []
            return header, data, fds

    def _read(self, wanted: int) -> bool:
        """Read at most that many bytes, with their descriptors. False at the end of the connection."""
        part, ancillary, flags, _ = self._sock.recvmsg(wanted, self._ancillary)
        self._keep_descriptors(ancillary)
        if flags & socket.MSG_CTRUNC:
            raise SessionError("a message has too many descriptors, or none is left")
        self._bytes += part
        return bool(part)

    def _keep_descriptors(self, ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(data) - len(data) % _INT.size
                self._fds += [fd for (fd,) in _INT.iter_unpack(data[:whole])]
        if len(self._fds) > vu.MAX_TABLE_REGIONS:
            raise SessionError("a message has too many descriptors")

    def reply(self, header: vu.Header, payload: bytes, fds: list[int]) -> None:
        """Answer a message. Raises OSError, or SessionError if the monitor does not read."""
        message = vu.reply(header.request, payload)
        try:
            sent = socket.send_fds(self._sock, [message], fds)
        except BlockingIOError:
            sent = 0
        if sent < len(message):
            raise SessionError("the monitor does not read")

    def close(self) -> None:
        """Close the socket, and descriptors of a message that is not whole."""
        self._sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
