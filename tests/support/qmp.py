"""Sends commands to a running machine over QEMU's monitor protocol (QMP)."""

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.netns import wait_for


class Monitor:
    """A connection to the socket of `-qmp unix:PATH,server=on,wait=off`."""

    def __init__(self, path: Path) -> None:
        """Connect as soon as QEMU has made the socket."""
        wait_for(path.exists, "the machine's monitor")
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(10.0)
        self._sock.connect(str(path))
        self._lines = self._sock.makefile("rb")
        assert "QMP" in json.loads(self._lines.readline())
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a command, and return its result. AssertionError with QEMU's text if it is refused."""
        self._sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            line = self._lines.readline()
            assert line, f"QEMU ended before it answered {command}"
            answer = json.loads(line)
            # Skip events, which may come before the answer.
            if "event" not in answer:
                assert "return" in answer, f"{command}: {answer['error']['desc']}"
                return answer["return"]

    def close(self) -> None:
        """Disconnect. The machine goes on."""
        self._lines.close()
        self._sock.close()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
