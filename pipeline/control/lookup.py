"""Numbers for names: addresses of hosts and ports of services.

The system's own lookup finds addresses. It blocks, so it runs in threads of its own. The event loop's
getaddrinfo would not do: the loop waits for its threads at its end, and a silent name server would delay an
orderly stop until the system gives up.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Final

MAX_AT_ONCE: Final = 4
"""Threads. A guest may ask for names, and cannot have more threads than this."""
TIMEOUT: Final = 10.0
"""Seconds to wait for an answer. Its thread ends later, when the system gives up."""

WELL_KNOWN: Final = {
    "domain": 53, "ftp": 21, "http": 80, "https": 443, "imaps": 993, "nfs": 2049, "pop3": 110, "smtp": 25,
    "ssh": 22, "telnet": 23,
}  # fmt: skip
"""Ports by the names that IANA gave them, for systems without /etc/services."""
LONGEST_SERVICE: Final = 64


def port_number(protocol: str, text: str) -> int | None:
    """A port from its number or its service's name (``nfs``); None for neither. protocol: tcp..., udp..."""
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
        self._room = asyncio.Semaphore(MAX_AT_ONCE)

    async def addresses(self, host: str) -> list[str]:
        """The addresses in the system's order, none for an unknown name. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()
        async with asyncio.timeout(TIMEOUT):
            await self._room.acquire()
            threading.Thread(target=self._ask, args=(loop, host, answer), daemon=True).start()
            return await answer

    def _ask(self, loop: asyncio.AbstractEventLoop, host: str, answer: asyncio.Future[list[str]]) -> None:
        try:
            rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, ValueError):  # ValueError: it could not be the name of a host
            rows = []
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._answer, answer, [str(row[4][0]) for row in rows])

    def _answer(self, answer: asyncio.Future[list[str]], found: list[str]) -> None:
        self._room.release()
        if not answer.done():
            answer.set_result(found)
