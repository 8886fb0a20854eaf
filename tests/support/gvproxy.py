"""Runs gvtap-gvproxy as a script or podman would: its command line, its log, its end.

with Gvproxy(network, "-listen-qemu", url) as gvproxy: ...    the end of the block ends the program
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from perf import compiled
from tests.support import quick_start
from tests.support.netns import Namespace, Network, wait_for

READY = "waiting for clients..."


class Gvproxy:
    """One run, with -ssh-port -1 unless the flags have another one."""

    def __init__(self, network: Network, *flags: str, namespace: Namespace | None = None) -> None:
        self.network = network
        self.namespace = namespace or network.host
        self.log_path = network.directory / "gvproxy.log"
        self.argv = [*compiled.command("gvtap-gvproxy"), *flags]
        if "-ssh-port" not in flags and "-config" not in flags:
            self.argv += ["-ssh-port", "-1"]
        self._process: subprocess.Popen[bytes] | quick_start.Process | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes] | quick_start.Process":
        assert self._process is not None
        return self._process

    def start(self, **options: Any) -> None:
        """Start it, and do not wait."""
        with self.log_path.open("wb") as log:
            self._process = self.namespace.start(
                quick_start.GVPROXY,
                self.argv,
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **options},
            )

    def wait_until_ready(self) -> None:
        """Wait until its log says that it is ready. AssertionError with the log if it ends before."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log_path.read_text()
            return any(line["event"] == READY for line in self.lines())

        wait_for(ready, "gvtap-gvproxy is ready")

    def lines(self) -> list[dict[str, Any]]:
        """The complete lines of its log."""
        text = self.log_path.read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait(self, seconds: float = 5.0) -> int:
        """Wait for its end. Returns its exit code."""
        return self.process.wait(seconds)

    def last_words(self) -> str:
        """The last line of its log."""
        return str(self.lines()[-1]["event"])

    def comm(self) -> str:
        """The name of its process as pgrep sees it."""
        return Path(f"/proc/{self.process.pid}/comm").read_text().strip()

    def children(self) -> list[int]:
        """The process ids of its workers."""
        pid = self.process.pid
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def __enter__(self) -> "Gvproxy":
        self.start()
        self.wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            sys.stderr.write(self.log_path.read_text())
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(5)


class Notified:
    """The listener for -notification. It collects the events in order."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.url = f"unix://{path}"
        self._process = subprocess.Popen(
            ["socat", "-u", f"UNIX-LISTEN:{path},fork,max-children=1", "STDOUT"], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._text = ""
        wait_for(path.exists, "the listener of notifications")

    def events(self) -> list[dict[str, str]]:
        """The events so far."""
        assert self._process.stdout is not None
        self._text += (self._process.stdout.read() or b"").decode()
        return [json.loads(line) for line in self._text.splitlines(keepends=True) if line.endswith("\n")]

    def close(self) -> None:
        """Close the listener."""
        self._process.terminate()
        self._process.communicate(timeout=5)
