"""A download of a guest that goes on until the end of a block, at a rate that leaves the machine time."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from tests.support.netns import INTERNET_ADDR, Namespace

PIECE = bytes(65536)
PAUSE = 0.02
"""Seconds between two pieces: about 3 MB/s."""


@contextlib.contextmanager
def download(guest: Namespace, internet: Namespace, address: str = INTERNET_ADDR) -> Iterator[int]:
    """The port of the server in the internet from which the guest downloads."""
    listener = internet.call(lambda: socket.create_server((address, 0)))
    port: int = listener.getsockname()[1]
    ends = [guest.connect(address, port)]
    ends.append(listener.accept()[0])
    threads = [
        threading.Thread(target=work, args=(end,)) for work, end in zip((_read, _write), ends, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield port
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for sock in (*ends, listener):
            sock.close()


def _write(sock: socket.socket) -> None:
    # The test ends the download, or an operator does.
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(PIECE)
            time.sleep(PAUSE)


def _read(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(len(PIECE)):
            continue
