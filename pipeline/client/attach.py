"""The command ``attach``: gives a network namespace a tap whose frames a running daemon carries.

It makes the tap in the namespace and passes its descriptor to the daemon (pipeline.links.passed). A DHCP
client in the namespace sets address and default route, and renews the lease. The command says when the
network works. It stays until the namespace ends or a signal ends it, and it fails when the tap or the DHCP
client ends before. In any case it removes the tap that it has made.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from pipeline.client.show import FAILED, MISUSED, OK, PROGRAM
from pipeline.client.target import Target, checked
from pipeline.go import flags
from pipeline.links.addresses import words_of
from pipeline.links.tap_opener import open_tap
from pipeline.links.tap_url import TapPlace
from pipeline.system import namespaces, netlink
from pipeline.system.interface import View
from pipeline.system.namespaces import CLONE_NEWNET, CLONE_NEWUSER, NamespaceError, doing

DHCP_SECONDS: Final = 15.0
PASS_SECONDS: Final = 5.0
"""Until then the daemon has taken the tap. It closes the connection at once."""
SETTLE_SECONDS: Final = 0.2
"""The daemon closes the connection first. Then it may still refuse the guest, which ends the tap."""
LOOK_SECONDS: Final = 0.5
"""Seconds between two looks at the namespace, the tap and the DHCP client."""
STOP_SECONDS: Final = 3.0
_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)
_CLIENT: Final = "guest.dhcp_client"


class AttachError(Exception):
    """A step failed. The text says which one, and why."""


def run(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Attach a namespace. Returns the exit code."""
    try:
        target = checked(parsed)
    except flags.FlagError as error:
        sys.stderr.write(f"{PROGRAM} attach: {error}\n")
        return MISUSED
    for number in _ENDING:
        # nohup ignores SIGHUP, and a shell ignores SIGINT for what runs in its background.
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    attachment = Attachment(target)
    try:
        # The inner block ends the signals. One that comes just before it still leads to the outer one.
        try:
            attachment.begin()
            sys.stdout.write(f"{target.place.name} is ready\n")
            sys.stdout.flush()
            attachment.watch()
        finally:
            _ignore_signals()
    except (AttachError, NamespaceError) as error:
        sys.stderr.write(f"{PROGRAM} attach: {error}\n")
        return FAILED
    finally:
        attachment.end()
    return OK


class Attachment:
    """A tap in the target's namespace, and what runs for it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._before = _identity(target.place.netns)
        self._view: View | None = None
        self._index = 0
        """The index of the tap that begin() has made, 0 before."""
        self._process = select.poll()
        """Becomes ready when the target's process ends."""
        self._client: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Make the tap, and wait until it works. Raises AttachError or NamespaceError."""
        target = self._target
        (fd,) = namespaces.run_inside(lambda: _look(target.place))
        self._view = View(fd)
        if target.pid:
            try:
                self._process.register(os.pidfd_open(target.pid), select.POLLIN)
            except OSError as error:
                raise AttachError(f"cannot watch process {target.pid}: {words_of(error)}") from error
        tap = open_tap(target.place, target.mtu, _configure(target))
        try:
            self._index = self._view.index(target.place.name)
            _pass(tap, target.path)
        finally:
            os.close(tap)
        self._settle()
        if not target.address:
            self._client = _start_dhcp(target)
            self._await_address()

    def watch(self) -> None:
        """Return when the namespace has ended. Raises AttachError if the tap or the client ends before."""
        while not self._has_ended(LOOK_SECONDS):
            if not self._is_there():
                raise AttachError(
                    f"the tap {self._target.place.name} is gone: "
                    f"the daemon at {self._target.path} has ended its link, or it was deleted"
                )
            self._check_client()

    def end(self) -> None:
        """Remove what begin() has made."""
        if self._client is not None:
            _stop(self._client)
        if self._index:
            _remove(self._target.place, self._index)
        if self._view is not None:
            self._view.close()

    def _settle(self) -> None:
        """Check that the daemon keeps the tap. This process has closed its own descriptor."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if not self._is_there():
                path = self._target.path
                raise AttachError(
                    f"the socket {path} did not keep the tap: it does not take taps, as that of "
                    f"-link fd+unix://{path} does, or the daemon refused this one and its log says why"
                )
            time.sleep(SETTLE_SECONDS / 10)

    def _await_address(self) -> None:
        assert self._view is not None
        deadline = time.monotonic() + DHCP_SECONDS
        while not self._view.has_address(self._index):
            if self._has_ended(LOOK_SECONDS / 5):
                raise AttachError("the namespace ended before it had an address")
            if not self._is_there():
                raise AttachError(f"the tap {self._target.place.name} is gone before it had an address")
            self._check_client()
            if time.monotonic() > deadline:
                raise AttachError(
                    f"no address by DHCP in {DHCP_SECONDS:.0f} s: does the daemon refuse the tap?"
                )

    def _has_ended(self, seconds: float) -> bool:
        """Whether the target ends in this time. A path is looked at only after it."""
        if self._process.poll(seconds * 1000):
            return True
        return not self._target.pid and _identity(self._target.place.netns) != self._before

    def _is_there(self) -> bool:
        return self._view is not None and bool(self._view.name(self._index))

    def _check_client(self) -> None:
        status = self._client.poll() if self._client is not None else None
        if status is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise AttachError(f"the DHCP client {how}: nothing renews the address")


def _configure(target: Target) -> Callable[[str], None]:
    def configure(name: str) -> None:
        netlink.set_up("lo")
        if target.address:
            netlink.set_address(name, target.address, target.prefix)
            netlink.set_default_route(name, target.gateway)

    return configure


def _pass(fd: int, path: str) -> None:
    """Give the daemon a copy of the descriptor. It closes the connection when it has it."""
    try:
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.settimeout(PASS_SECONDS)
            daemon.connect(path)
            socket.send_fds(daemon, [b"\0"], [fd])
            answer = daemon.recv(1)
    except TimeoutError:
        answer = b"?"
    except OSError as error:
        raise AttachError(f"cannot pass the tap to the daemon at {path}: {words_of(error)}") from error
    if answer:
        raise AttachError(f"the socket {path} does not take taps: that of -link fd+unix://{path} does")


def _look(place: TapPlace) -> list[int]:
    """Make a view of the namespace, in a child. Refuse an interface that is there: it belongs to another."""
    _enter(place)
    if any(name == place.name for _, name in socket.if_nameindex()):
        raise NamespaceError(
            f"-iface: {place.name} exists already in {place.netns}: choose another name, "
            f"or delete it there (ip link delete {place.name})"
        )
    return [View.make()]


def _enter(place: TapPlace) -> None:
    """Enter the namespaces. Raises NamespaceError."""
    netns = namespaces.open_namespace(place.netns, CLONE_NEWNET)
    if place.userns:
        userns = namespaces.open_namespace(place.userns, CLONE_NEWUSER)
    else:
        userns = namespaces.owner_to_enter(netns)
    if userns >= 0 and not namespaces.is_own_userns(userns):
        with doing(f"enter the user namespace {place.userns or 'of ' + place.netns}"):
            namespaces.enter(userns, CLONE_NEWUSER)
    with doing(f"enter the network namespace {place.netns}"):
        namespaces.enter(netns, CLONE_NEWNET)


def _start_dhcp(target: Target) -> "subprocess.Popen[bytes]":
    words = ["-i", target.place.name, "-with-parent", "-resolv-conf", target.resolv_conf]
    try:
        return subprocess.Popen(
            # -P: files of the working directory must not run in place of the program's.
            [sys.executable, "-P", "-m", _CLIENT, *words],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _module_path(os.environ.get("PYTHONPATH", ""))},
            preexec_fn=lambda: _enter(target.place),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise AttachError(f"cannot start the DHCP client: {error}") from error


def _module_path(given: str) -> str:
    """PYTHONPATH with this program's place first. Relative entries are left out."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([root, *filter(os.path.isabs, given.split(os.pathsep))])


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _stop(client: "subprocess.Popen[bytes]") -> None:
    client.terminate()
    try:
        client.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        client.kill()
        client.wait()


def _remove(place: TapPlace, index: int) -> None:
    """Remove the tap with this index, if it and its namespace are still there."""

    def remove() -> list[int]:
        _enter(place)
        netlink.delete(socket.if_indextoname(index))
        return []

    try:
        namespaces.run_inside(remove)
    except NamespaceError:
        return


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    # A second signal must not interrupt the clean-up after the first one.
    _ignore_signals()
    raise SystemExit(0)


def _ignore_signals() -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
