"""Sockets that the parent process opened and passed on: ``fd://3``, ``fd://NAME``, systemd's activation.

``fd://N`` is descriptor N. systemd and programs like it pass listening sockets from descriptor 3 on. They
describe these in the environment: LISTEN_PID is our process id, LISTEN_FDS is the number of sockets, and
LISTEN_FDNAMES has their names, separated by colons. ``fd://NAME`` is the first socket of that name. Each
descriptor may be used once. This module does not check what a socket is for.
"""

import os
import re
import socket
from collections.abc import MutableMapping
from typing import Final

from pipeline.links.addresses import AddressError

FIRST: Final = 3
MAX_PASSED: Final = 4096
SCHEME: Final = "fd://"

_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Inherited:
    """The descriptors of one program start."""

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        """Read the three variables and remove them, so that child processes do not see them."""
        values = {name: environ.pop(name, "") for name in _VARIABLES}
        self._names: dict[int, str] = {}
        self._used: set[int] = set()
        self._claimed: dict[str, socket.socket] = {}
        count = int(values["LISTEN_FDS"]) if re.fullmatch(r"[0-9]{1,4}", values["LISTEN_FDS"]) else 0
        if values["LISTEN_PID"] == str(pid) and 0 < count <= MAX_PASSED:
            names = values["LISTEN_FDNAMES"].split(":")
            names += [""] * (count - len(names))
            self._names = dict(enumerate(names[:count], FIRST))

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets that are claimed and not yet taken."""
        return list(self._claimed.values())

    def claim(self, url: str) -> None:
        """Check the socket of an fd:// URL and keep it for take(). Raises AddressError.

        Call this before any fork: a socket does not end while another process has a copy of it.
        """
        number = self._free_number(url)
        try:
            sock = socket.socket(fileno=number)
        except OSError as error:
            raise _unusable(url, number, error) from error
        self._use(number)
        self._claimed[url] = sock

    def claim_file(self, url: str) -> int:
        """The descriptor of an fd:// URL that is no socket. The caller owns it. Raises AddressError."""
        number = self._free_number(url)
        try:
            os.fstat(number)
        except OSError as error:
            raise _unusable(url, number, error) from error
        self._use(number)
        return number

    def _free_number(self, url: str) -> int:
        text = url.removeprefix(SCHEME).partition("?")[0]
        number = int(text) if re.fullmatch(r"[0-9]{1,6}", text) else self._number(text, url)
        if number < FIRST:
            raise AddressError(f"{url}: the first descriptor that can be passed is {FIRST}")
        if number in self._used:
            raise AddressError(f"{url}: descriptor {number} is used already")
        return number

    def _use(self, number: int) -> None:
        self._used.add(number)
        os.set_inheritable(number, False)

    def take(self, url: str) -> socket.socket:
        """The socket of an fd:// URL that was claimed. KeyError if it was not."""
        return self._claimed.pop(url)

    def close(self) -> None:
        """Close the sockets that were not taken."""
        for sock in self._claimed.values():
            sock.close()
        self._claimed.clear()

    def _number(self, name: str, url: str) -> int:
        for number, known in self._names.items():
            if known == name and name and number not in self._used:
                return number
        known_names = ", ".join(sorted(filter(None, self._names.values()))) or "none"
        raise AddressError(f"{url}: no descriptor of that name was passed (names: {known_names})")

    def unused(self) -> list[str]:
        """The descriptors that systemd passed and that no URL names. Each is a number and a name."""
        return [
            f"{number} ({name})" if name else str(number)
            for number, name in self._names.items()
            if number not in self._used
        ]


def _unusable(url: str, number: int, error: OSError) -> AddressError:
    return AddressError(f"{url}: descriptor {number}: {os.strerror(error.errno or 0).lower()}")
