"""A daemon without guests and namespaces: for its files, its signals, and the API on the host.

    with LoneDaemon(tmp_path, "-pid-file", path) as daemon: ...

starts `gvtap-pipeline start` with a control socket in the directory. Leaving the block ends it with SIGTERM
and asserts status 0. Nothing but loopback is used.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import quick_start, violations
from tests.support.netns import wait_for

READY = "waiting for clients..."
START_SECONDS = 20.0
STOP_SECONDS = 10.0


class LoneDaemon:
    """One run, with the plain sources of this tree."""

    def __init__(
        self, directory: Path, *flags: str, umask: int = 0o022, fresh: bool = False, **options: Any
    ) -> None:
        """options: of the process (subprocess.Popen). fresh: run the command as it stands."""
        self.socket = directory / "api.sock"
        self.error_path = directory / "api.err"
        self.options = options
        self._usual = [
            *(violations.program() or (sys.executable, "-m", "pipeline.cli")),
            *("start", "-ssh-port", "-1", "-slots", "64"),
            *("-listen", f"unix://{self.socket}", *flags),
        ]
        self.command = self._usual
        """A test may set another one."""
        self.umask = umask
        self.fresh = fresh
        self._process: subprocess.Popen[bytes] | quick_start.Process | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes] | quick_start.Process":
        """The supervisor's process."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        """Start it without waiting."""
        with self.error_path.open("wb") as error:
            options = {"stdout": error, "stderr": error, "umask": self.umask, **self.options}
            usual = self.command == self._usual and not self.fresh
            if usual and quick_start.can_fork(self.options):
                program = quick_start.WATCHED if violations.program() else quick_start.DAEMON
                self._process = quick_start.popen(program, "", self.command, **options)
            else:
                options.setdefault("stdin", subprocess.DEVNULL)
                self._process = subprocess.Popen(self.command, **options)

    def wait_until_ready(self) -> None:
        """Wait until the API answers. AssertionError with what it wrote, if it ends before."""

        def ready() -> bool:
            assert self.process.poll() is None, self.errors()
            try:
                answer = self.ask(b"GET /leases HTTP/1.0\r\n\r\n")
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return answer.startswith(b"HTTP/1.0 200 OK\r\n")

        wait_for(ready, "the daemon is ready", START_SECONDS, 0.02)

    def refusal(self, *, status: int = 1) -> str:
        """What a start that must fail writes."""
        self.start()
        try:
            assert self.process.wait(START_SECONDS) == status, self.errors()
        finally:
            self.kill()
        return self.errors()

    def errors(self) -> str:
        """What it wrote to standard error."""
        return self.error_path.read_text(errors="replace")

    def ask(self, request: bytes) -> bytes:
        """The bytes that come back on a connection of its own until it ends."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self.socket))
            answer = b""
            try:
                sock.sendall(request)
                while piece := sock.recv(65536):
                    answer += piece
            except ConnectionError:
                # It refused a request that was still being sent.
                return answer
            return answer

    def post(self, path: str, body: bytes | object) -> tuple[int, bytes]:
        """Status and body of a POST."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        head_of_answer, _, text = self.ask(head.encode() + data).partition(b"\r\n\r\n")
        return int(head_of_answer.split(b" ", 2)[1]), text

    def stop(self) -> None:
        """SIGTERM, and status 0 in time."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOP_SECONDS) == 0, self.errors()

    def kill(self) -> None:
        """After a failure."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> "LoneDaemon":
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self.kill()
