"""An API of a daemon that a test plays: it answers each connection with what a table says."""

import http.client
import io
import json
import socket
import threading
from pathlib import Path


class FakeApi:
    """Answers requests from ``answers``, and remembers them.

    ``answers``: by target, first with and then without its query: a status and a body. ``body`` and
    ``status`` are for all other targets.
    """

    def __init__(self, path: Path, family: int = socket.AF_UNIX) -> None:
        """path: of the unix socket. With AF_INET the port of ``url`` is chosen by the system."""
        self.requests: list[str] = []
        """The head of each request."""
        self.posted: list[tuple[str, object]] = []
        """Target and JSON of each POST."""
        self.status = "200 OK"
        self.body = b""
        self.answers: dict[str, tuple[str, bytes]] = {}
        self._listener = socket.socket(family)
        self._listener.bind(str(path) if family == socket.AF_UNIX else ("127.0.0.1", 0))
        self._listener.listen()
        where = self._listener.getsockname()
        self.url = f"unix://{path}" if family == socket.AF_UNIX else f"tcp://127.0.0.1:{where[1]}"
        self._family, self._where = family, where
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def says(self, target: str, value: object) -> None:
        """Answer this target with JSON."""
        self.answers[target] = ("200 OK", json.dumps(value).encode())

    def refuses(self, target: str, text: str, status: str = "500 Internal Server Error") -> None:
        """Answer this target with an error."""
        self.answers[target] = (status, f"{text}\n".encode())

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                if not self._answer(sock):
                    return

    def _answer(self, sock: socket.socket) -> bool:
        """Serve a connection. False if it brings no request."""
        data = sock.recv(65536)
        if not data:
            return False
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        self.requests.append(f"{head.decode()}\r\n\r\n")
        first, _, fields = head.partition(b"\r\n")
        length = int(http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n")).get("Content-Length", 0))
        while len(body) < length:
            body += sock.recv(65536)
        target = first.decode().split(" ")[1]
        if length:
            self.posted.append((target, json.loads(body)))
        known = self.answers.get(target) or self.answers.get(target.partition("?")[0])
        status, answer = known or (self.status, self.body)
        sock.sendall(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode() + answer)
        return True

    def close(self) -> None:
        """End the thread."""
        with socket.socket(self._family) as last:
            last.connect(self._where)
        self._thread.join()
        self._listener.close()
