"""Numbers for names: addresses of hosts and ports of services.

The system's own lookup finds addresses. It blocks, so it runs in threads of its own (threads.py).
"""

import asyncio
import socket
from typing import Final

from pipeline.control.threads import Threads
from pipeline.system import inet

MAX_AT_ONCE: Final = 4
"""Threads. A guest may ask for any number of names, but gets no more threads than this."""
TIMEOUT: Final = 10.0
"""Seconds to wait for an answer. Its thread ends later, when the system gives up."""

WELL_KNOWN: Final = {
    "domain": 53, "ftp": 21, "http": 80, "https": 443, "imaps": 993, "nfs": 2049, "pop3": 110, "smtp": 25,
    "ssh": 22, "telnet": 23,
}  # fmt: skip
"""Ports by the names that IANA gave them, for systems without /etc/services."""
LONGEST_SERVICE: Final = 64


def port_number(protocol: str, text: str) -> int | None:
    """The port of a number or a service's name (``nfs``), None for other texts. protocol: tcp..., udp..."""
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= LONGEST_SERVICE else None
    name = text.lower()
    if not 0 < len(name) <= LONGEST_SERVICE:
        return None
    try:
        return socket.getservbyname(name, "udp" if protocol.startswith("udp") else "tcp")
    except (OSError, ValueError):
        return WELL_KNOWN.get(name)


class Lookups:
    """All lookups of one event loop."""

    def __init__(self) -> None:
        self._threads = Threads(MAX_AT_ONCE)

    async def addresses(self, host: str) -> list[str]:
        """The addresses in the system's order, none for an unknown name. Raises TimeoutError."""
        async with asyncio.timeout(TIMEOUT):
            return await self._threads.run(lambda: _ask(host))


def _ask(host: str) -> list[str]:
    try:
        rows = socket.getaddrinfo(inet.lookup_name(host), None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # ValueError: it could not be the name of a host
        return []
    return [str(row[4][0]) for row in rows]
