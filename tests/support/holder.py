"""A connection, or a UDP flow, that a program in a namespace holds open."""

import subprocess
import sys
from types import TracebackType

from tests.support.netns import Namespace

_HOLDER = """
import socket, sys
kind, address, port = sys.argv[1:]
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
sock.settimeout(5)
sock.connect((address, int(port)))
for line in sys.stdin:
    try:
        sock.send(b"word")
        print(sock.recv(100).decode() or "end", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


class Holder:
    """A connection, or a UDP flow, that stays open in the guest."""

    def __init__(self, guest: Namespace, kind: str, address: str, port: int) -> None:
        argv = [sys.executable, "-c", _HOLDER, kind, address, str(port)]
        self._process = guest.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def echo(self) -> str:
        """What comes back, or the name of the error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return str(self._process.stdout.readline().strip())

    def __enter__(self) -> "Holder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
