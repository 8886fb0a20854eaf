"""Runs a script of examples/ as a user does, with the programs of this checkout on the path."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
MODULES = {
    "gvtap-pipeline": "pipeline.cli",
    "gvtap-gvproxy": "pipeline.gvproxy",
    "gvtap-guest": "guest.agent",
}


def programs(directory: Path, played: Mapping[str, str] = {}) -> dict[str, str]:
    """Environment with our programs on the path; and played ones: their names, and the shell line of each."""
    lines = {name: f'exec {sys.executable} -m {module} "$@"' for name, module in MODULES.items()}
    directory.mkdir(exist_ok=True)
    for name, line in {**lines, **played}.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def played_monitor(name: str) -> dict[str, str]:
    """A played machine monitor of this name (played_monitor.py)."""
    return {name: f'exec {sys.executable} -m tests.support.played_monitor {name} "$@"'}


def copied(name: str, directory: Path) -> Path:
    """The files of an example, as a user copies them."""
    return Path(shutil.copytree(EXAMPLES / name, directory / name))


def free_port() -> int:
    """A TCP port of the loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _default_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Script:
    """A script in a process group of its own, which gets SIGINT at the end of the block, as with ctrl-C."""

    def __init__(self, path: Path, *words: object, env: Mapping[str, str]) -> None:
        self.log = path.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [path, *map(str, words)],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # A shell that ignores SIGINT from its start cannot trap it, as in the background of a script.
                preexec_fn=_default_sigint,
            )

    def text(self) -> str:
        """What it and its programs wrote."""
        return self.log.read_text(errors="replace")

    def __enter__(self) -> "Script":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(30)
        if kind is not None:
            sys.stderr.write(self.text())
