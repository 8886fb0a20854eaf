"""A vhost-user listener and frontends in one test. The listener is served while a frontend asks."""

import random
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from perf.vhost_frontend import HEADER, Frontend
from pipeline.links.addresses import listen
from pipeline.links.vhost_user import VhostUserListener
from pipeline.links.vhost_user_link import VhostUserLink
from tests.support.owner import Owner

Result = TypeVar("Result")

NO_HEADER = bytes(HEADER)


class Rig:
    """A listener on a unix socket, and frontends that connect to it."""

    def __init__(self, owner: Owner, directory: Path) -> None:
        self.owner = owner
        self.path = str(directory / "vhost.sock")
        self.listener = owner.open(VhostUserListener(listen(f"unix://{self.path}")))
        self._frontends: list[Frontend] = []

    def frontend(self, **options: Any) -> Frontend:
        """A frontend that is not connected. close() closes it."""
        made = Frontend(**options)
        self._frontends.append(made)
        return made

    def opened(self, **options: Any) -> Frontend:
        """A frontend whose rings run."""
        made = self.frontend(**options)
        self.call(lambda: made.open(self.path))
        self.owner.wait(lambda: self.owner.guests)
        return made

    def call(self, function: Callable[[], Result]) -> Result:
        """Call what waits for the listener's answers, while the listener is served."""
        results: list[Result] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        self.owner.wait(lambda: not thread.is_alive())
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def serve(self) -> None:
        """Serve what the frontends have sent so far."""
        while self.owner.poller.run(0.01):
            pass

    def close(self) -> None:
        """Close the frontends."""
        for each in self._frontends:
            each.close()


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side has closed a connection. Reads what comes before."""
    sock.settimeout(5.0)
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def link_of(rig: Rig) -> VhostUserLink:
    link = rig.owner.guest().link
    assert isinstance(link, VhostUserLink)
    return link


def framed(frame: bytes, header: bytes = NO_HEADER) -> bytes:
    return struct.pack("<I", len(header) + len(frame)) + header + frame


def frames_of(card: Frontend) -> list[bytes]:
    """The frames that have arrived, with their headers."""
    found = [b"".join(parts) for parts in card.received()]
    card.refill()
    return found
