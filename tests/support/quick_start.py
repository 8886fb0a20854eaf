"""Starts our programs without their imports, which are most of a start: preloaded.py forks them.

    process = quick_start.popen(quick_start.DAEMON, namespace.name, command, stdout=log, stderr=log)

The process is what the command would be, except for /proc/PID/cmdline and its parent, which is the forking
process. GVTAP_TEST_FRESH=1 runs each command as it stands. `make stress` does so, and so do the tests of the
start itself. Tests with virtual environments of their own, or other systems, have commands of their own.
"""

import array
import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from perf import compiled
from tests.support import preloaded
from tests.support.preloaded import SIGNALS

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "GVTAP_TEST_FRESH"


class Program(NamedTuple):
    """A program that can be forked. modules: what the forking process imports."""

    start: str
    modules: tuple[str, ...]


_GUEST_MODULES = ("guest.agent", "tests.support.client", "tests.support.servers")
_DAEMON_MODULES = (
    *("pipeline.cli", "pipeline.commands.start", "pipeline.gvproxy"),
    # The daemon loads these with its first request. The audit at the end of a test is one.
    *("h11", "pipeline.control.http.runner", "pipeline.control.http.openapi", "pipeline.control.http.api"),
)
DAEMON = Program("pipeline.cli:main", _DAEMON_MODULES)
WATCHED = Program("tests.support.violations:main", (*_DAEMON_MODULES, "tests.support.violations"))
"""The daemon with filters that report (tests.support.violations)."""
GVPROXY = Program("pipeline.gvproxy:main", _DAEMON_MODULES)
AGENT = Program("guest.agent:main", _GUEST_MODULES)
CLIENT = Program("tests.support.client:main", _GUEST_MODULES)
SERVERS = Program("tests.support.servers:main", _GUEST_MODULES)


def can_fork(options: Mapping[str, Any]) -> bool:
    """Whether popen() knows these options of subprocess.Popen, and the environment does not forbid it."""
    known = {"stdin", "stdout", "stderr", "cwd", "env", "umask", "start_new_session"}
    off = os.environ.get(VARIABLE, "") not in ("", "0")
    special = [value for value in options.values() if value in (subprocess.PIPE, subprocess.STDOUT)]
    return not off and options.keys() <= known and not special


class Process:
    """A forked process, with the part of subprocess.Popen that tests use."""

    stdin = stdout = stderr = None

    def __init__(self, nursery: "Nursery", pid: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None
        self._nursery = nursery
        self._end = os.pidfd_open(pid)
        self._lock = threading.Lock()
        """Threads may wait for the same process."""

    def poll(self) -> int | None:
        """The status, None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                poll = select.poll()
                poll.register(self._end, select.POLLIN)
                if poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
                    self.returncode = int(self._nursery.ask({"reap": self.pid})["status"])
                    os.close(self._end)
            return self.returncode


class Nursery:
    """The forking process of some modules. It starts with the first program.

    path: PYTHONPATH=..., which says whether the modules are the compiled ones.
    """

    def __init__(self, modules: Sequence[str], path: str) -> None:
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fd = theirs.fileno()
            words = (compiled.ENV, path, sys.executable, "-P", "-m", preloaded.__name__, str(fd), *modules)
            self._process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[fd])
        atexit.register(self.close)

    def ask(self, request: Mapping[str, object], files: Sequence[int] = ()) -> dict[str, Any]:
        """Send a request with descriptors, and return the answer."""
        with self._lock, os.fdopen(os.memfd_create("request"), "w+b") as file:
            file.write(json.dumps(request).encode())
            file.seek(0)
            rights = array.array("i", [file.fileno(), *files])
            self._line.sendmsg([b"request"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            text = self._line.recv(preloaded.MAX_ANSWER)
        if not text:
            raise AssertionError(f"{preloaded.__name__} has ended")
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise OSError(answer["error"])
        return answer

    def has_ended(self) -> bool:
        """Whether it cannot fork any more."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the forking process. What it has forked goes on."""
        self._line.close()
        self._process.wait(10)


_nurseries: dict[tuple[int, tuple[str, ...], str], Nursery] = {}
"""By the process that made it (a forked test process must not share the socket), by modules and path."""


def popen(
    program: Program,
    namespace: str,
    argv: Sequence[str],
    *,
    stdin: IO[Any] | int | None = None,
    stdout: IO[Any] | int | None = None,
    stderr: IO[Any] | int | None = None,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    umask: int = 0o022,
    start_new_session: bool = False,
) -> Process:
    """Fork the program as argv would start it. namespace: "" for that of the tests.

    argv: the words after the program's own are those of sys.argv. The files are open files, descriptors, or
    subprocess.DEVNULL (the default).
    """
    words = list(argv)
    path = compiled.command("gvtap-pipeline", plain=True)[1]
    if words[0] == compiled.ENV:
        path = words[1]
        del words[:2]
    key = (os.getpid(), program.modules, path)
    nursery = _nurseries.get(key)
    if nursery is None or nursery.has_ended():
        nursery = _nurseries[key] = Nursery(program.modules, path)
    orig = words if words[0] == sys.executable else [sys.executable, *words]
    with open(os.devnull, "r+b") as nothing:

        def number(file: IO[Any] | int | None) -> int:
            if file is None or file == subprocess.DEVNULL:
                return nothing.fileno()
            return file if isinstance(file, int) else file.fileno()

        request = {
            "start": program.start,
            "argv": _arguments(words),
            "orig_argv": orig,
            "cwd": str(cwd),
            "env": _environment(argv, env),
            "umask": umask,
            "session": start_new_session,
            "ignored": [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN],
            "namespace": namespace,
        }
        answer = nursery.ask(request, [number(stdin), number(stdout), number(stderr)])
    return Process(nursery, answer["pid"], argv)


def _arguments(words: Sequence[str]) -> list[str]:
    """sys.argv of a command line: without the interpreter and its flags."""
    skipped = (sys.executable, "-P", "-m")
    first = next(number for number, word in enumerate(words) if word not in skipped)
    return list(words[first:])


def _environment(argv: Sequence[str], env: Mapping[str, str] | None) -> dict[str, str]:
    made = dict(os.environ if env is None else env)
    made.update(word.split("=", 1) for word in argv[:2] if word.startswith("PYTHONPATH="))
    return made
