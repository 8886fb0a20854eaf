"""Network namespaces for tests: guests, the host in which the daemon runs, and a small internet.

    guest 0..n-1         host                              internet
    (lo, tap made by     lo, veth0 198.18.0.1/24  ------  veth0 198.18.0.2/24, lo 198.18.0.3,
     the agent)          default via 198.18.0.2            169.254.169.254
                         resolv.conf: 198.18.0.2

No namespace has an interface of the machine's own network, so no packet of a test can leave the machine. The
names of namespaces contain the pid. close() removes them, also through atexit. If a run was killed with -9,
the next run removes its namespaces. Needs root, iproute2 and veth.
"""

import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tests.support import quick_start

ROOT = Path(__file__).resolve().parents[2]

HOST_ADDR = "198.18.0.1"
INTERNET_ADDR = "198.18.0.2"
SECOND_ADDR = "198.18.0.3"
METADATA_ADDR = "169.254.169.254"
BLACK_HOLE_ADDR = "198.18.99.99"
HOST_ADDR6 = "2001:db8:18::1"
INTERNET_ADDR6 = "2001:db8:18::2"
SECOND_ADDR6 = "2001:db8:19::3"

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_SERIAL = itertools.count()

Result = TypeVar("Result")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@functools.cache
def missing() -> str:
    """Why namespaces cannot be made here; "" if they can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs the ip command (iproute2)"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    probe = f"gvp{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
    except subprocess.CalledProcessError as error:
        return f"cannot make a network namespace: {error.stderr.strip()}"
    own = Path("/etc/netns") / probe
    try:
        _ip("-n", probe, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        # The guests' agents write resolv.conf. It must not be the machine's.
        own.mkdir(parents=True)
        (own / "resolv.conf").write_text(probe)
        words = ["ip", "netns", "exec", probe, "cat", "/etc/resolv.conf"]
        seen = subprocess.run(words, capture_output=True, text=True)
        if seen.stdout != probe:
            return f"a namespace cannot have its own /etc/resolv.conf: {seen.stderr.strip()}"
    except subprocess.CalledProcessError as error:
        return f"cannot make a veth pair: {error.stderr.strip()}"
    finally:
        _ip("netns", "del", probe)
        shutil.rmtree(own, ignore_errors=True)
    return ""


class Namespace:
    """One network namespace with its own resolv.conf. It ends the processes that it has started."""

    def __init__(self, name: str, resolv_conf: str = "") -> None:
        """Make the namespace, with lo up. resolv_conf: the text of /etc/resolv.conf for programs in it."""
        self.name = name
        self.resolv_conf = Path("/etc/netns") / name / "resolv.conf"
        self._processes: list[subprocess.Popen[Any] | quick_start.Process] = []
        _ip("netns", "add", name)
        self.resolv_conf.parent.mkdir(parents=True, exist_ok=True)
        self.resolv_conf.write_text(resolv_conf)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> None:
        """Run the ip command in the namespace. CalledProcessError if it fails."""
        _ip("-n", self.name, *words)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs argv in the namespace, as one process with the child's pid."""
        return ["ip", "netns", "exec", self.name, *argv]

    def popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start argv in the namespace, in the repository's root. close() ends it at the latest."""
        process = subprocess.Popen(self.command(argv), **{"cwd": ROOT, **options})
        self._processes.append(process)
        return process

    def start(
        self, program: quick_start.Program, argv: Sequence[str], **options: Any
    ) -> "subprocess.Popen[Any] | quick_start.Process":
        """Start a program of ours in the namespace, as quick_start.py does. close() ends it at the latest."""
        if not quick_start.can_fork(options):
            return self.popen(argv, **options)
        process = quick_start.popen(program, self.name, argv, **options)
        self._processes.append(process)
        return process

    def run(
        self, *argv: str, timeout: float = 60.0, check: bool = True, env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run argv in the namespace to its end. Returns its output. AssertionError with it on failure."""
        done = subprocess.run(
            self.command(argv), cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=env
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def ask(
        self, program: quick_start.Program, *argv: str, timeout: float = 60.0, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program of ours in the namespace to its end, as run() does, but without its imports."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.start(program, argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            try:
                status = process.wait(timeout)
            except BaseException:
                process.kill()
                process.wait()
                raise
            for file in (out, err):
                file.seek(0)
            done = subprocess.CompletedProcess(argv, status, out.read(), err.read())
        if check and status != 0:
            raise AssertionError(f"{argv} ended with {status}\n{done.stdout}{done.stderr}")
        return done

    def call(self, function: Callable[[], Result]) -> Result:
        """Call function in a thread in the namespace. Sockets that it makes stay in this namespace."""
        outcome: list[Result] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                with open(f"/run/netns/{self.name}", "rb") as handle:
                    if _LIBC.setns(handle.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                outcome.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def connect(self, address: str, port: int, timeout: float = 10.0) -> socket.socket:
        """Make a TCP connection from the namespace."""
        return self.call(lambda: socket.create_connection((address, port), timeout))

    def close(self) -> None:
        """End every process in the namespace by its pid. Then remove the namespace and its files."""
        inside = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        for pid in map(int, inside.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._processes.clear()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        shutil.rmtree(self.resolv_conf.parent, ignore_errors=True)


class Network:
    """Guests, host and internet with the links between them, and a directory for sockets and logs."""

    def __init__(self, guest_count: int = 1) -> None:
        """Make everything. After a failure, remove what was already made."""
        sweep()
        prefix = f"gvp{os.getpid()}-{next(_SERIAL)}"
        self._made: list[Namespace] = []
        self.directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
        atexit.register(self.close)
        try:
            self.internet = self._make(f"{prefix}-internet")
            self.host = self._make(f"{prefix}-host", f"nameserver {INTERNET_ADDR}\n")
            self.guests = [self._make(f"{prefix}-guest{index}") for index in range(guest_count)]
            self._wire()
        except BaseException:
            self.close()
            raise

    @property
    def guest(self) -> Namespace:
        """The first guest."""
        return self.guests[0]

    def close(self) -> None:
        """Remove everything. May be called twice."""
        atexit.unregister(self.close)
        while self._made:
            self._made.pop().close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, name: str, resolv_conf: str = "") -> Namespace:
        namespace = Namespace(name, resolv_conf)
        self._made.append(namespace)
        return namespace

    def _wire(self) -> None:
        veth = ("link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", self.internet.name)
        self.host.ip(*veth)
        for namespace, address in ((self.host, HOST_ADDR), (self.internet, INTERNET_ADDR)):
            namespace.ip("address", "add", f"{address}/24", "dev", "veth0")
            namespace.ip("link", "set", "veth0", "up")
        for address in (SECOND_ADDR, METADATA_ADDR):
            self.internet.ip("address", "add", f"{address}/32", "dev", "lo")
        self.host.ip("route", "add", "default", "via", INTERNET_ADDR)


def add_ipv6(network: Network) -> None:
    """Give host and internet IPv6 addresses, and the host a default route."""
    network.internet.ip("-6", "address", "add", f"{INTERNET_ADDR6}/64", "dev", "veth0", "nodad")
    network.internet.ip("-6", "address", "add", f"{SECOND_ADDR6}/128", "dev", "lo", "nodad")
    add_host_ipv6(network)


def add_host_ipv6(network: Network) -> None:
    """The host's part of add_ipv6()."""
    network.host.ip("-6", "address", "add", f"{HOST_ADDR6}/64", "dev", "veth0", "nodad")
    network.host.ip("-6", "route", "add", "default", "via", INTERNET_ADDR6)


def sweep() -> None:
    """Remove namespaces of dead runs: their pid is gone, and no process is in them."""
    for path in Path("/run/netns").glob("gvp*-*"):
        pid = path.name[3:].partition("-")[0]
        if not pid.isdigit() or Path(f"/proc/{pid}").exists():
            continue
        inside = subprocess.run(["ip", "netns", "pids", path.name], capture_output=True, text=True)
        if inside.returncode == 0 and not inside.stdout.strip():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / path.name, ignore_errors=True)


def leftovers() -> list[str]:
    """Namespaces, and their files, that this process has made and not removed."""
    mine = f"gvp{os.getpid()}-"
    places = (Path("/run/netns"), Path("/etc/netns"))
    return [str(path) for place in places if place.is_dir() for path in place.glob(f"{mine}*")]


def shared_memory() -> set[str]:
    """The names in /dev/shm now. A daemon must unlink its own."""
    return set(os.listdir("/dev/shm"))


def new_shared_memory(before: set[str], seconds: float = 2.0) -> set[str]:
    """The names in /dev/shm that are not of ``before`` and stay there for this time.

    The daemons of tests that run beside this one have names there for a moment.
    """
    deadline = time.monotonic() + seconds
    new = shared_memory() - before
    while new and time.monotonic() < deadline:
        time.sleep(0.02)
        new &= shared_memory()
    return new


def wait_for(
    condition: Callable[[], Result], what: str, seconds: float = 10.0, every: float = 0.02
) -> Result:
    """Wait for a true result of condition, and return it. AssertionError with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)
