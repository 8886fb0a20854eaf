"""Network namespaces for measurements: one for a guest, and one for a host with loopback.

The namespaces have no names. A `cat` process holds each open, and ends when its standard input is closed. So
a namespace is gone when the measuring process ends, also after kill -9. No packet can reach another machine:
the host's default route leads into a veth whose other end is in the same namespace.

Tests of behaviour need a third namespace with servers outside. They use tests/support/netns.py.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, NamedTuple

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000


def die_with_parent() -> None:
    """Have the kernel kill this child process when its parent dies. For use as preexec_fn."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Namespace:
    """One network namespace, held open by a process of its own."""

    def __init__(self) -> None:
        # The line of output shows that `unshare` has finished. Only then can others enter.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "ip link set lo up && echo ready && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise RuntimeError("a network namespace cannot be made (root is needed)")
        self.pid = self._holder.pid
        self.path = f"/proc/{self.pid}/ns/net"

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in the namespace."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, *argv: str, timeout: float = 30.0) -> str:
        """Run a command to its end. Returns its output. Raises RuntimeError with its errors if it fails."""
        done = subprocess.run(
            self.command(argv), capture_output=True, text=True, timeout=timeout, preexec_fn=die_with_parent
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}"
            )
        return done.stdout

    def spawn(
        self, argv: Sequence[str], log: IO[bytes] | int = subprocess.DEVNULL, **kwargs: object
    ) -> Process:
        """Start a command that keeps running. It is killed when this process ends."""
        return Process(self.command(argv), log, **kwargs)

    def close(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()


class Process:
    """A child process. stop() ends it with SIGTERM, and with SIGKILL after a while."""

    def __init__(
        self, argv: Sequence[str], log: IO[bytes] | int = subprocess.DEVNULL, **kwargs: object
    ) -> None:
        self.argv = list(argv)
        settings: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": log,
            "stderr": subprocess.STDOUT,
            "preexec_fn": die_with_parent,
        }
        settings.update(kwargs)
        self.popen: subprocess.Popen[bytes] = subprocess.Popen(self.argv, **settings)  # type: ignore[call-overload]

    @property
    def pid(self) -> int:
        return self.popen.pid

    def alive(self) -> bool:
        return self.popen.poll() is None

    def stop(self, patience: float = 3.0) -> int:
        """End the process. Returns its exit status (negative: the signal that killed it)."""
        if self.alive():
            self.popen.terminate()
            try:
                self.popen.wait(patience)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        status = self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()
        return status


def enter_new() -> None:
    """Move this process, and those that it starts from now on, into a new namespace with loopback alone.

    It is gone when the last of them has ended. Call this before there are threads. Needs root.
    """
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        raise PermissionError(f"a network namespace cannot be made: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class World(NamedTuple):
    """The two namespaces of one measurement."""

    guest: Namespace
    host: Namespace


def _settle(namespace: Namespace, congestion: str, *, is_guest: bool = False) -> None:
    if congestion:
        namespace.run("sh", "-c", f"echo {congestion} > /proc/sys/net/ipv4/tcp_congestion_control")
    if is_guest:
        namespace.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")


@contextmanager
def further_guests(count: int, congestion: str = "") -> Iterator[tuple[Namespace, ...]]:
    """Namespaces for further guests, besides the one of a world."""
    made: list[Namespace] = []
    try:
        for _ in range(count):
            made.append(Namespace())
            _settle(made[-1], congestion, is_guest=True)
        yield tuple(made)
    finally:
        for namespace in made:
            namespace.close()


@contextmanager
def world(congestion: str = "") -> Iterator[World]:
    """Make the namespaces, and remove them at the end in any case.

    `congestion`: TCP congestion control of both kernels, as in /proc/sys/net/ipv4/tcp_congestion_control. ""
    means the machine's own.
    """
    if os.geteuid() != 0:
        raise PermissionError("network namespaces need root")
    made: list[Namespace] = []
    try:
        made.append(Namespace())
        made.append(Namespace())
        guest, host = made
        _settle(host, congestion)
        _settle(guest, congestion, is_guest=True)
        # passt looks for the interface of a default route and refuses to start without one.
        host.run(
            "ip",
            "link",
            "add",
            "out0",
            "mtu",
            "65520",
            "type",
            "veth",
            "peer",
            "name",
            "out1",
            "mtu",
            "65520",
        )
        host.run("ip", "address", "add", "198.51.100.2/24", "dev", "out0")
        host.run("ip", "link", "set", "out1", "up")
        host.run("ip", "link", "set", "out0", "up")
        host.run("ip", "route", "add", "default", "via", "198.51.100.1")
        yield World(guest, host)
    finally:
        for namespace in reversed(made):
            namespace.close()
