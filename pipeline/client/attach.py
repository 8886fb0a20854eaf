"""The command ``attach``: gives a network namespace a tap whose frames a running daemon carries.

It makes the tap in the namespace and passes its descriptor to the daemon (pipeline.links.passed). A DHCP
client in the namespace sets address and default route, and renews the lease. The command says when the
network works. It stays until the namespace ends or SIGTERM comes. Then it removes the tap.
"""

import ipaddress
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
from typing import Final, NamedTuple, NoReturn

from pipeline.client.show import FAILED, MISUSED, OK, PROGRAM
from pipeline.go import flags
from pipeline.links import tap_url
from pipeline.links.addresses import unix_path, words_of
from pipeline.links.tap_opener import open_tap
from pipeline.links.tap_url import TapPlace
from pipeline.system import namespaces, netlink
from pipeline.system.namespaces import CLONE_NEWNET, CLONE_NEWUSER, NamespaceError
from pipeline.system.tap import has_address
from pipeline.wire import ethernet, ip

DHCP_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 0.5
"""Seconds between two looks at the path of a namespace, and between two for an address."""
STOP_SECONDS: Final = 3.0
_CLIENT: Final = "guest.dhcp_client"


class AttachError(Exception):
    """A step failed. The text says which one, and why."""


class Target(NamedTuple):
    """The checked command line. pid: 0 for a namespace that a path names. address: 0 for DHCP."""

    place: TapPlace
    pid: int
    path: str
    mtu: int
    address: int
    prefix: int
    gateway: int
    resolv_conf: str


def run(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Attach a namespace. Returns the exit code."""
    try:
        target = checked(parsed)
    except flags.FlagError as error:
        sys.stderr.write(f"{PROGRAM} attach: {error}\n")
        return MISUSED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        _attach(target)
    except (AttachError, NamespaceError) as error:
        sys.stderr.write(f"{PROGRAM} attach: {error}\n")
        return FAILED
    return OK


def checked(parsed: flags.Parsed) -> Target:
    """The values of the flags. Raises FlagError."""
    word, path = parsed.arguments[0], unix_path(parsed.text("socket"))
    if not path:
        raise flags.FlagError(
            "-socket is missing: it names the socket on which the daemon takes taps, such as "
            f"unix:///run/taps of '{PROGRAM} start -link fd+unix:///run/taps'"
        )
    is_pid = word.isascii() and word.isdigit()
    try:
        netns = tap_url.path_of("netns", f"/proc/{word}/ns/net" if is_pid else word)
        userns = tap_url.path_of("userns", parsed.text("userns"))
        place = TapPlace(tap_url.parse(parsed.text("iface")).name, netns, userns, _mac(parsed.text("mac")))
        address, prefix, gateway = _static(parsed.text("address"), parsed.text("gateway"))
    except ValueError as error:
        raise flags.FlagError(str(error)) from None
    mtu = parsed.number("mtu")
    if not 68 <= mtu <= 65521:
        raise flags.FlagError(f"mtu is out of range: {mtu} (allowed: 68 to 65521)")
    pid = int(word) if is_pid else 0
    return Target(place, pid, path, mtu, address, prefix, gateway, parsed.text("resolv-conf"))


def _mac(text: str) -> bytes:
    return ethernet.mac_parse(text) if text else b""


def _static(address: str, gateway: str) -> tuple[int, int, int]:
    """Address, prefix length and gateway; zeros for DHCP. Raises ValueError."""
    if not address:
        return 0, 0, 0
    own = ipaddress.IPv4Interface(address)
    first = ipaddress.IPv4Address(gateway) if gateway else own.network[1]
    return ip.of(own.ip), own.network.prefixlen, ip.of(first)


def _attach(target: Target) -> None:
    place = target.place
    fd = open_tap(place, target.mtu, _configure(target))
    try:
        _pass(fd, target.path)
    finally:
        os.close(fd)
    client: subprocess.Popen[bytes] | None = None
    try:
        if not target.address:
            client = _start_dhcp(target)
            _await_address(target, client)
        sys.stdout.write(f"{place.name} is ready\n")
        sys.stdout.flush()
        _watch(target, client)
    finally:
        if client is not None:
            _stop(client)
        _remove(place)


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
            daemon.settimeout(DHCP_SECONDS)
            daemon.connect(path)
            socket.send_fds(daemon, [b"\0"], [fd])
            daemon.recv(1)
    except OSError as error:
        raise AttachError(f"cannot pass the tap to the daemon at {path}: {words_of(error)}") from error


def _enter(place: TapPlace) -> None:
    """Enter the namespaces. Raises OSError or NamespaceError."""
    netns = namespaces.open_namespace(place.netns, CLONE_NEWNET)
    if place.userns:
        userns = namespaces.open_namespace(place.userns, CLONE_NEWUSER)
    else:
        userns = namespaces.owner_to_enter(netns)
    if userns >= 0 and not namespaces.is_own_userns(userns):
        namespaces.enter(userns, CLONE_NEWUSER)
    namespaces.enter(netns, CLONE_NEWNET)


def _start_dhcp(target: Target) -> "subprocess.Popen[bytes]":
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    words = ["-i", target.place.name, "-with-parent", "-resolv-conf", target.resolv_conf]
    try:
        return subprocess.Popen(
            [sys.executable, "-m", _CLIENT, *words],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            preexec_fn=lambda: _enter(target.place),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise AttachError(f"cannot start the DHCP client: {error}") from error


def _await_address(target: Target, client: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + DHCP_SECONDS
    while not _has_address(target.place):
        if client.poll() is not None:
            raise AttachError(f"the DHCP client ended with status {client.returncode}")
        if time.monotonic() > deadline:
            raise AttachError(f"no address by DHCP in {DHCP_SECONDS:.0f} s: does the daemon refuse the tap?")
        time.sleep(LOOK_SECONDS / 5)


def _has_address(place: TapPlace) -> bool:
    def look() -> list[int]:
        _enter(place)
        if not has_address(place.name):
            raise NamespaceError("none yet")
        return []

    try:
        namespaces.run_inside(look)
    except NamespaceError:
        return False
    return True


def _watch(target: Target, client: "subprocess.Popen[bytes] | None") -> None:
    """Return when the namespace has ended. Raises AttachError if the DHCP client ends before."""
    poller = select.poll()
    if target.pid:
        try:
            poller.register(os.pidfd_open(target.pid), select.POLLIN)
        except OSError:
            return
    before = _identity(target.place.netns)
    # A process can be waited for, a path has to be looked at.
    while not poller.poll((60.0 if target.pid else LOOK_SECONDS) * 1000):
        if not target.pid and _identity(target.place.netns) != before:
            return
        if client is not None and client.poll() is not None:
            raise AttachError(f"the DHCP client ended with status {client.returncode}")


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


def _remove(place: TapPlace) -> None:
    """Remove the tap, if its namespace is still there."""

    def remove() -> list[int]:
        _enter(place)
        netlink.delete(place.name)
        return []

    try:
        namespaces.run_inside(remove)
    except NamespaceError:
        return


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    # A second signal must not interrupt the clean-up after the first one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)
