"""A daemon that runs as a child of this program, in a directory of its own that goes with it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

import yaml

from pipeline.client.api import ApiError

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.02
"""Seconds between two looks whether the daemon is ready."""
_LINES: Final = 3
"""Lines of the log that an error shows."""


class Child:
    """The process. It ends with close(), and when this program ends in an orderly way."""

    def __init__(self, flags: Sequence[str], config: Mapping[str, object]) -> None:
        """Start it, and do not wait. flags, config: of ``gvtap-pipeline start``. Raises OSError."""
        self.directory = tempfile.mkdtemp(prefix="gvtap-")
        """Only this user can enter it."""
        self.socket = os.path.join(self.directory, "api.sock")
        self.taps = os.path.join(self.directory, "taps.sock")
        self.log = os.path.join(self.directory, "log")
        self.url = f"unix://{quote(self.socket)}"
        self.guests_url = f"unix://{quote(os.path.join(self.directory, 'guests.sock'))}"
        argv = [*_PROGRAM, "start", "-listen", self.url, "-listen-connect", self.guests_url]
        argv += ["-link", f"fd+unix://{quote(self.taps)}"]
        if config:
            path = os.path.join(self.directory, "config.yaml")
            with open(path, "w") as file:
                yaml.safe_dump(dict(config), file, allow_unicode=True)
            argv += ["-config", path]
        else:
            # The port of the host is for one network alone.
            argv += ["-ssh-port", "-1"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*argv, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._end = weakref.finalize(self, _end, self.process, self.directory)

    def check(self) -> None:
        """Raise ApiError if it has ended. The text has the last lines of its log."""
        status = self.process.poll()
        if status is not None:
            raise ApiError(f"the network ended with status {status}: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            return "it has no log"
        return "; ".join(map(_words, lines[-_LINES:]))

    def close(self) -> None:
        """End it in an orderly way, and remove its directory."""
        self._end()


_PROGRAM: Final = (sys.executable, "-P", "-m", "pipeline.cli")
"""-P: nothing of the working directory is run."""


class OfChild:
    """What both clients tell of the child that a network may be."""

    _child: Child | None

    @property
    def guests_url(self) -> str:
        """Where guests with our agent attach to a child (``gvtap-guest -url``); it has nothing of the API."""
        return self._child.guests_url if self._child is not None else ""

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """The child, None if the network is not one."""
        return self._child.process if self._child is not None else None

    @property
    def log(self) -> str:
        """The path of the child's log, which goes with the child; "" if there is none."""
        return self._child.log if self._child is not None else ""


def attach(target: str, taps: str, flags: Sequence[str]) -> subprocess.Popen[str]:
    """Give a network namespace a tap of the daemon with this socket for taps (docs/tap.md).

    Returns the process that keeps it when the network works there. Raises ApiError.
    """
    argv = [*_PROGRAM, "attach", "-socket", f"unix://{quote(taps)}", *flags, target]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise ApiError(f"cannot attach {target}: the command ended with status {process.wait()}")
    return process


def _words(line: str) -> str:
    """What a line of the log says."""
    try:
        found = json.loads(line)
    except ValueError:
        return line
    if not isinstance(found, dict):
        return line
    return ": ".join(str(found[key]) for key in ("event", "error") if key in found)


def _end(process: subprocess.Popen[bytes], directory: str) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(directory, ignore_errors=True)
