"""What a client says to a proxy before a connection's own bytes: a tunnel to a destination.

Sans-IO. A handshake has ``to_send``, bytes for the proxy, and gets the proxy's bytes by feed(). It ends with
``done`` or with ``failure``. After ``done``, ``rest`` has the destination's first bytes. The proxy has
MAX_BYTES for its answers. The owner bounds the time.

The destination is a name, if one is known, so that the proxy can judge by it, and looks it up itself.
"""

import errno
from abc import ABC, abstractmethod
from typing import Final, NamedTuple

MAX_BYTES: Final = 16384
"""Bytes of all answers of a proxy."""
MAX_WORDS: Final = 120
"""Characters of a text that the proxy chooses."""


class Destination(NamedTuple):
    """Where the guest wants to go. ``name``: "" if none is known. ``guest``: the guest's address."""

    name: str
    address: int
    port: int
    guest: int


class Failure(NamedTuple):
    """Why there is no tunnel: in words, and as the errno that a program would get."""

    reason: str
    error: int = errno.ECONNREFUSED


NO_ANSWER: Final = Failure("the proxy has not answered in time", errno.ETIMEDOUT)
ENDED: Final = Failure("the proxy has ended the connection before it answered", errno.ECONNRESET)
_TOO_LONG: Final = Failure(f"the proxy's answer is longer than {MAX_BYTES} bytes")


class Handshake(ABC):
    """One handshake. The protocols are in socks5.py and http_connect.py."""

    def __init__(self) -> None:
        self.to_send = b""
        """The owner sends these, and calls sent()."""
        self.done = False
        self.failure: Failure | None = None
        self._got = b""
        self._total = 0

    @property
    def ended(self) -> bool:
        """Whether the handshake is over, in either way."""
        return self.done or self.failure is not None

    @property
    def rest(self) -> bytes:
        """What follows the handshake: bytes of the destination."""
        return self._got if self.done else b""

    def sent(self, count: int) -> None:
        """The proxy's socket has taken so many bytes of ``to_send``."""
        self.to_send = self.to_send[count:]

    def feed(self, data: bytes) -> None:
        """The proxy has sent these bytes."""
        if self.ended:
            self._got += data
            return
        self._got += data
        self._total += len(data)
        try:
            while not self.ended and self._step():
                pass
        except ValueError as error:
            self.failure = Failure(f"the proxy's answer is not {self.SPEAKS} ({error})")
        if not self.ended and self._total >= MAX_BYTES:
            self.failure = _TOO_LONG

    def end(self) -> None:
        """The proxy sends nothing more."""
        if not self.ended:
            self.failure = ENDED

    SPEAKS: str
    """The protocol, for people."""

    @abstractmethod
    def _step(self) -> bool:
        """Read one answer from ``_got``, if it is complete. Returns whether there may be another one."""

    def _take(self, count: int) -> bytes:
        taken, self._got = self._got[:count], self._got[count:]
        return taken


def words(text: str) -> str:
    """A text of the proxy, for logs: without control characters, and not longer than MAX_WORDS."""
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_WORDS])
