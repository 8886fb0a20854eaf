"""DNS messages over TCP: two bytes of length, then the message (RFC 1035 section 4.2.2, RFC 7766).

A FramedStream is one end of such a connection. Clients and servers both use it. It never blocks. It holds at
most one partial message, and the bytes that the socket has not taken yet. The caller checks ``unsent`` to
limit these.
"""

import errno
import socket
from typing import Final

PREFIX: Final = 2
READ_BYTES: Final = 65536


class FramedStream:
    """Owns a connected (or connecting) stream socket, and makes it non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.ended = False
        """The peer sends nothing more (end of stream or an error)."""
        self.broken = False
        """The connection failed: what is sent does not arrive."""
        self._received = bytearray()
        self._unsent = bytearray()

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        return len(self._unsent)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self.sock.fileno()

    def receive(self) -> list[bytes]:
        """Read once, and return the messages that are now complete."""
        if self.ended:
            return []
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            self.ended = self.broken = True
            return []
        if not data:
            self.ended = True
            return []
        received = self._received
        received += data
        messages = []
        at = 0
        while len(received) - at >= PREFIX:
            end = at + PREFIX + int.from_bytes(received[at : at + PREFIX], "big")
            if end > len(received):
                break
            messages.append(bytes(received[at + PREFIX : end]))
            at = end
        del received[:at]
        return messages

    def send(self, message: bytes) -> None:
        """Queue a message, and write what the socket takes. OverflowError above 65535 bytes."""
        self._unsent += len(message).to_bytes(PREFIX, "big") + message
        self.flush()

    def flush(self) -> bool:
        """Write what the socket takes. Returns whether nothing is left."""
        while self._unsent and not self.broken:
            try:
                sent = self.sock.send(self._unsent)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.ENOTCONN:
                    return False  # still connecting: some systems report this error then
                self.broken = True
                break
            del self._unsent[:sent]
        if self.broken:
            self._unsent.clear()
        return True

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()
