"""Runs the daemon with filters that report each system call that a worker may not make.

    GVTAP_TEST_VIOLATIONS=FILE pytest tests/e2e     all daemons of these tests; the run fails for a line
    python -m tests.support.violations FILE start ...

With ``-sandbox on`` a call that is not listed fails with EPERM, and perhaps nobody notices. Here the kernel
asks a *monitor* first (seccomp_unotify(2)). The monitor appends a line of JSON to FILE, and lets the call
fail as always. Calls that Profile.fruitless lists are refused as always, without a line.

The monitor is a process of its own, without a parent here, so that the daemon has its usual children. It
ends with the last process that has a filter. A successor of the daemon has another one. The data path is
the compiled one if there is one.
"""

import array
import ctypes
import errno
import fcntl
import importlib
import json
import os
import select
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from perf import compiled
from pipeline.system.sandbox import libc, libseccomp, seccomp

VARIABLE = "GVTAP_TEST_VIOLATIONS"

_NOTIFY = 0x7FC00000
_SET_MODE_FILTER = 1
_NEW_LISTENER = 8
_NOTIF_RECV = 0xC0502100
_NOTIF_SEND = 0xC0182101
_NOTIF = struct.Struct("=QIIiIQ6Q")
"""id, pid, flags, then struct seccomp_data: number, architecture, instruction pointer, arguments."""
_ANSWER = struct.Struct("=QqiI")
_RETRY = {errno.EINTR, errno.EAGAIN}


def program(*, plain: bool = False) -> list[str]:
    """The command line of a daemon whose violations are to be recorded; empty if none are."""
    path = os.environ.get(VARIABLE, "")
    env = compiled.environment(plain=plain)
    return [*env, sys.executable, "-P", "-m", "tests.support.violations", path] if path else []


def recorded() -> Counter[str]:
    """What is in the file of this run: how often each process made a call."""
    path = Path(os.environ[VARIABLE])
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter("{process}: {call}{arguments}".format(**json.loads(line)) for line in lines)


# --- the monitor ------------------------------------------------------------------------------------


class Monitor:
    """Serves the listeners of all workers of a daemon."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._sock = sock
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._listeners: set[int] = set()
        self._names = ctypes.CDLL(libseccomp.LIBRARY).seccomp_syscall_resolve_num_arch
        self._names.restype = ctypes.c_char_p

    def run(self) -> None:
        """Until nobody has the other end of the socket, and no listener is left."""
        accepts = True
        while accepts or self._listeners:
            for fd, events in self._poll.poll():
                if fd == self._sock.fileno():
                    accepts = self._accept()
                elif events & select.POLLIN:
                    self._serve(fd)
                else:
                    self._poll.unregister(fd)
                    self._listeners.discard(fd)
                    os.close(fd)

    def _accept(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._sock, 1, 1)
        for fd in fds:
            self._listeners.add(fd)
            self._poll.register(fd, select.POLLIN)
        if not data:
            self._poll.unregister(self._sock)
        return bool(data)

    def _serve(self, fd: int) -> None:
        ask = array.array("B", bytes(_NOTIF.size))
        try:
            fcntl.ioctl(fd, _NOTIF_RECV, ask)
        except OSError as error:
            if error.errno in (errno.ENOENT, *_RETRY):
                return  # the process has died meanwhile
            raise
        number, pid, _, call, arch, _, *arguments = _NOTIF.unpack(ask)
        name = self._names(ctypes.c_uint32(arch), ctypes.c_int(call)) or str(call).encode()
        line = {
            "process": _process_name(pid),
            "pid": pid,
            "call": name.decode(),
            "arguments": [hex(each) for each in arguments[:3]],
            "at": time.time(),
        }
        # Addresses differ from run to run, and would hide that lines are alike.
        line["arguments"] = [each if int(each, 16) < 1 << 20 else "..." for each in line["arguments"]]
        os.write(self._file, json.dumps(line).encode() + b"\n")
        try:
            answer = _ANSWER.pack(number, 0, -errno.EPERM, 0)
            fcntl.ioctl(fd, _NOTIF_SEND, array.array("B", answer))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


def _process_name(pid: int) -> str:
    """The name of the process of a thread."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        main = next(line.split()[1] for line in status.splitlines() if line.startswith("Tgid:"))
        return Path(f"/proc/{main}/comm").read_text().strip()
    except (OSError, StopIteration):
        return "?"


def start_monitor(path: str) -> socket.socket:
    """Start the monitor. Returns the socket that takes listeners."""
    ours, theirs = socket.socketpair()
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            ours.close()
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            Monitor(theirs, path).run()
        os._exit(0)
    os.waitpid(child, 0)
    theirs.close()
    return ours


# --- the daemon -------------------------------------------------------------------------------------


def report_to(sock: socket.socket) -> None:
    """Let the filters of this program report to a monitor."""
    plain_filters: Any = libseccomp.filters
    plain_load = seccomp.load

    def filters(kept: Any, absent: Any, fruitless: Any, *, kill: bool) -> Any:
        # A filter that kills has the calls without an effect, which are no violations.
        return plain_filters(kept, absent, fruitless, kill=True)

    def load(number: int, programs: Any) -> None:
        *others, last = programs
        plain_load(number, others)
        code = seccomp._Program(len(last.program) // 8, last.program)
        listener = libc.system_call(
            number, _SET_MODE_FILTER, ctypes.c_uint(_NEW_LISTENER), ctypes.byref(code)
        )
        socket.send_fds(sock, [b"x"], [listener])
        os.close(listener)

    libseccomp.KILL = _NOTIFY  # type: ignore[misc]
    libseccomp.filters = filters  # type: ignore[assignment]
    seccomp.load = load


def main() -> int:
    """See the module's docstring."""
    path, *words = sys.argv[1:]
    report_to(start_monitor(path))
    code: int = importlib.import_module("pipeline.cli").main(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
