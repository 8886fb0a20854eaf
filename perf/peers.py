"""Starts the programs that are compared: this daemon, gvproxy, passt and slirp4netns.

A peer runs in the host's namespace and gives the guest an interface `eth0`. The guest then reaches the host's
loopback as `Endpoint.host_addr`, and over IPv6 as `Endpoint.host_addr6` where it is wanted. Most peers get
their frames from perf.nic. slirp4netns opens its own tap.
The peers named AGENT use this program's own agent, over /connect and with offload (docs/offload.md). Those
named TAP have a tap that the daemon opens in the guest's namespace (docs/tap.md).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from perf import compiled
from perf.namespaces import Namespace, Process, World
from pipeline.config import merge
from pipeline.config import options as flags_of
from pipeline.go import flags
from pipeline.wire import ip

ROOT = Path(__file__).resolve().parent.parent
GUEST_MAC = "5a:94:ef:e4:0c:ee"
LOOPBACK, LOOPBACK6 = "127.0.0.1", "::1"
AGENT = "pipeline-agent"
PIPELINE_AUTO = "pipeline auto"
AGENT_AUTO = AGENT + " auto"
VHOST = "pipeline-vhost-user"
VHOST_AUTO = VHOST + " auto"
TAP = "pipeline-tap"
TAP_AUTO = TAP + " auto"
OURS = ("pipeline", PIPELINE_AUTO, AGENT, AGENT_AUTO, VHOST, VHOST_AUTO, TAP, TAP_AUTO)
PASST_VHOST = "passt-vhost-user"
PASST_COMMAND = "GVTAP_PASST_VHOST_USER"
"""An environment variable: the command line of a passt that has --vhost-user, which few releases have."""
MANY_GUESTS = ("pipeline", PIPELINE_AUTO)
"""The peers that serve several guests at once here. Most of the others are made for one."""
START_PATIENCE = 15.0  # seconds for a peer to answer its first connection


class Endpoint(NamedTuple):
    """A running peer."""

    peer: str
    host_addr: str  # what the guest dials to reach a server on the host's loopback
    host_addr6: str  # the same over IPv6: a server on ::1
    pid: int  # of the peer's main process, 0 if it has none
    log: Path
    bind: str = LOOPBACK  # where a server on the host listens so that host_addr leads to it
    bind6: str = LOOPBACK6


class Ipv6(NamedTuple):
    """The IPv6 addresses of a peer's network."""

    guest: str
    gateway: str
    host: str  # leads to the host's ::1


class PeerError(RuntimeError):
    """A peer could not be started. The text has the end of its log."""


class Setup(NamedTuple):
    world: World
    directory: Path
    mtu: int
    plain: bool
    ipv6: bool
    extra: tuple[str, ...]
    stack: ExitStack
    nics: list[tuple[Process, Path]]
    others: tuple[Namespace, ...]
    checkout: Path = ROOT
    """Whose daemon runs, if it is this program's."""


def _nic(setup: Setup, path: Path, address: str, gateway: str, number: int = 0, vhost: bool = False) -> None:
    """Start the network card on `path`, and configure eth0. number: 0 for the guest, else a further one.

    vhost: the card shares its memory, and does not use QEMU's framing.
    """
    guest = setup.others[number - 1] if number else setup.world.guest
    readable, writable = os.pipe()
    program = "perf.vhost_nic" if vhost else "perf.nic"
    argv = [sys.executable, "-m", program, "--tap", "eth0", "--socket", str(path)]
    argv += [] if vhost else ["--mtu", str(setup.mtu)]
    argv += ["--ready-fd", str(writable)] + (["--plain"] if setup.plain else [])
    log = setup.directory / f"nic{number or ''}.log"
    with open(log, "wb") as out:
        nic = guest.spawn(argv, out, cwd=ROOT, pass_fds=(writable,))
    os.close(writable)
    setup.nics.append((nic, log))
    setup.stack.callback(nic.stop)
    with open(readable, "rb") as ready:
        if ready.readline() != b"ready\n":
            raise PeerError(f"the network card did not start: {_tail(log)}")
    configure_guest(guest, setup.mtu, address, gateway, f"{GUEST_MAC[:-2]}{0xEE - number:02x}")


def configure_guest(guest: Namespace, mtu: int, address: str, gateway: str, mac: str = GUEST_MAC) -> None:
    """Configure the guest's eth0 as DHCP would."""
    guest.run("ip", "link", "set", "eth0", "address", mac, "mtu", str(mtu))
    guest.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    guest.run("ip", "link", "set", "eth0", "up")
    guest.run("ip", "route", "add", "default", "via", gateway)


def _peer(setup: Setup, name: str, argv: list[str], **kwargs: object) -> Process:
    with open(setup.directory / f"{name}.log", "wb") as log:
        process = setup.world.host.spawn(argv, log, **kwargs)
    setup.stack.callback(process.stop)
    return process


def _daemon(setup: Setup, name: str, *flags: str) -> Process:
    """Start this program's daemon, of the checkout that is measured."""
    argv = [*compiled.command("gvtap-pipeline", root=setup.checkout), "start", *flags]
    argv += ["-mtu", str(setup.mtu), "-ssh-port", "-1", *(["-ipv6", "on"] if setup.ipv6 else [])]
    return _peer(setup, name, [*argv, *setup.extra], cwd=ROOT)


def _start_pipeline(setup: Setup) -> tuple[Process, str]:
    path = setup.directory / "net.sock"
    process = _daemon(setup, "pipeline", "-listen-qemu", f"unix://{path}")
    for number in range(1 + len(setup.others)):
        _nic(setup, path, f"192.168.127.{2 + number}", "192.168.127.1", number)
    return process, "192.168.127.254"


def _start_vhost(setup: Setup) -> tuple[Process, str]:
    path = setup.directory / "net.sock"
    process = _daemon(setup, VHOST, "-listen-vhost-user", f"unix://{path}")
    for number in range(1 + len(setup.others)):
        _nic(setup, path, f"192.168.127.{2 + number}", "192.168.127.1", number, vhost=True)
    return process, "192.168.127.254"


def _start_agent(setup: Setup) -> tuple[Process, str]:
    path = setup.directory / "net.sock"
    process = _daemon(setup, AGENT, "-listen", f"unix://{path}")
    deadline = time.monotonic() + START_PATIENCE
    while not path.exists() and process.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    words = ["-url", f"unix://{path}", "-iface", "eth0", "-mac", GUEST_MAC, "-stop-if-exist", ""]
    words += ["-address", "192.168.127.2/24", "-gateway", "192.168.127.1", "-link-mtu", str(setup.mtu)]
    log = setup.directory / "agent.log"
    with open(log, "wb") as out:
        agent = setup.world.guest.spawn([*compiled.command("gvtap-guest"), *words], out, cwd=ROOT)
    setup.nics.append((agent, log))
    setup.stack.callback(agent.stop)
    return process, "192.168.127.254"


def _start_tap(setup: Setup) -> tuple[Process, str]:
    guest = setup.world.guest
    process = _daemon(setup, TAP, "-link", f"tap+eth0?netns=/proc/{guest.pid}/ns/net")
    deadline = time.monotonic() + START_PATIENCE
    while process.alive() and time.monotonic() < deadline:
        if "eth0" in guest.run("ip", "-o", "link"):
            break
        time.sleep(0.02)
    configure_guest(guest, setup.mtu, "192.168.127.2", "192.168.127.1")
    return process, "192.168.127.254"


def _start_gvproxy(setup: Setup) -> tuple[Process, str]:
    path = setup.directory / "net.sock"
    argv = ["gvproxy", "-listen-qemu", f"unix://{path}", "-mtu", str(setup.mtu), "-ssh-port", "-1"]
    process = _peer(setup, "gvproxy", argv)
    _nic(setup, path, "192.168.127.2", "192.168.127.1")
    return process, "192.168.127.254"


def _start_passt(setup: Setup) -> tuple[Process, str]:
    return _passt(setup, "passt", ["passt"])


def _start_passt_vhost(setup: Setup) -> tuple[Process, str]:
    return _passt(setup, PASST_VHOST, [*shlex.split(os.environ[PASST_COMMAND]), "--vhost-user"])


def _passt(setup: Setup, name: str, command: list[str]) -> tuple[Process, str]:
    path = setup.directory / "net.sock"
    setup.directory.chmod(0o777)  # passt drops root before it makes its socket
    argv = [*command, "--foreground", "--stderr", "--socket", str(path), "--mtu", str(setup.mtu)]
    argv += ["--address", "192.168.127.2", "--netmask", "24", "--gateway", "192.168.127.1"]
    argv += ["--interface", "out0"]
    if setup.ipv6:
        argv += ["--address", PASST6.guest, "--gateway", PASST6.gateway]
    process = _peer(setup, name, argv)
    _nic(setup, path, "192.168.127.2", "192.168.127.1", vhost=name == PASST_VHOST)
    return process, "192.168.127.1"


def _start_slirp4netns(setup: Setup) -> tuple[Process, str]:
    argv = ["slirp4netns", "--configure", "--mtu", str(setup.mtu), str(setup.world.guest.pid), "eth0"]
    argv += ["--enable-ipv6"] if setup.ipv6 else []
    process = _peer(setup, "slirp4netns", argv)
    return process, "10.0.2.2"


PASST6 = Ipv6("2001:db8::3", "fe80::1", "fe80::1%eth0")
"""passt answers datagrams to the host's ::1 from a link-local gateway only."""
SLIRP6 = Ipv6("fd00::100", "fd00::2", "fd00::2")


def own_ipv6() -> Ipv6:
    """The addresses of the network that this program's daemon has by default."""
    network = merge.build(flags.parse(flags_of.START, ["-ipv6", "on"]))[0].network
    return Ipv6(ip.text(network.ipv6_first | 2), ip.text(network.ipv6_gateway), ip.text(network.ipv6_host))


def _allow_ipv6(world: World) -> None:
    """Let both kernels use IPv6. passt serves it only if the host has a default route."""
    world.guest.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    world.host.run("ip", "-6", "address", "add", "2001:db8::2/64", "dev", "out0", "nodad")
    world.host.run("ip", "-6", "route", "add", "default", "via", "2001:db8::1", "dev", "out0")


def _add_ipv6(name: str, guest: Namespace) -> str:
    """Give the guest's eth0 an address and a route, as router advertisements would. Returns Ipv6.host."""
    found = {"passt": PASST6, PASST_VHOST: PASST6, "slirp4netns": SLIRP6}.get(name) or own_ipv6()
    guest.run("ip", "-6", "address", "replace", f"{found.guest}/64", "dev", "eth0", "nodad")
    guest.run("ip", "-6", "route", "replace", "default", "via", found.gateway, "dev", "eth0")
    return found.host


def _auto(starter: Callable[[Setup], tuple[Process, str]]) -> Callable[[Setup], tuple[Process, str]]:
    return lambda setup: starter(setup._replace(extra=("-placement", "auto", *setup.extra)))


STARTERS: dict[str, Callable[[Setup], tuple[Process, str]]] = {
    "pipeline": _start_pipeline,
    PIPELINE_AUTO: _auto(_start_pipeline),
    VHOST: _start_vhost,
    VHOST_AUTO: _auto(_start_vhost),
    AGENT: _start_agent,
    AGENT_AUTO: _auto(_start_agent),
    TAP: _start_tap,
    TAP_AUTO: _auto(_start_tap),
    "gvproxy": _start_gvproxy,
    "passt": _start_passt,
    PASST_VHOST: _start_passt_vhost,
    "slirp4netns": _start_slirp4netns,
}


def installed() -> list[str]:
    """The names of the peers that can run here. This program comes first."""
    found = ["pipeline"] if (ROOT / "pipeline" / "cli.py").exists() else []
    found += [name for name in STARTERS if name not in OURS and shutil.which(name)]
    return found + ([PASST_VHOST] if os.environ.get(PASST_COMMAND) else [])


@contextmanager
def running(
    name: str,
    world: World,
    mtu: int,
    *,
    plain: bool = False,
    ipv6: bool = False,
    extra: tuple[str, ...] = (),
    others: tuple[Namespace, ...] = (),
    checkout: Path = ROOT,
) -> Iterator[Endpoint]:
    """Start a peer, and wait until the guest reaches the host's loopback through it. Stop it at the end.

    ipv6: the guest reaches the host over IPv6 too. extra: further options for this program's own daemon.
    others: further guests (MANY_GUESTS). checkout: see Setup. Raises PeerError with the end of the log.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perf-")))
        setup = Setup(world, directory, mtu, plain, ipv6, extra, stack, [], others, checkout)
        log = directory / f"{name.removesuffix(' auto')}.log"
        try:
            if ipv6:
                _allow_ipv6(world)
            process, host_addr = STARTERS[name](setup)
            _await_first_connection(world, host_addr, process)
            host_addr6 = ""
            if ipv6:
                host_addr6 = _add_ipv6(name, world.guest)
                _await_first_connection(world, host_addr6, process, LOOPBACK6)
        except (PeerError, RuntimeError, OSError) as problem:
            raise PeerError(f"{name}: {problem}; its log ends: {_tail(log)}") from problem
        yield Endpoint(name, host_addr, host_addr6, process.pid, log)
        if not process.alive():
            raise PeerError(f"{name} died (status {process.stop()}); its log ends: {_tail(log)}")
        for nic, nic_log in setup.nics:
            if not nic.alive():
                raise PeerError(f"{name}: the network card died (status {nic.stop()}): {_tail(nic_log)}")


_LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 0), family=family) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        server.accept()[0].close()
"""

_DIAL = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.0) as link:
    sys.exit(0 if link.recv(1) == b"" else 1)
"""


def _await_first_connection(world: World, host_addr: str, process: Process, bind: str = LOOPBACK) -> None:
    """Connect from the guest to a server on the host's loopback, until that succeeds. bind: its address."""
    listener = world.host.spawn([sys.executable, "-c", _LISTEN, bind], subprocess.PIPE)
    try:
        assert listener.popen.stdout is not None
        port = listener.popen.stdout.readline().decode().strip()
        deadline = time.monotonic() + START_PATIENCE
        while True:
            try:
                world.guest.run(sys.executable, "-c", _DIAL, host_addr, port)
                return
            except RuntimeError as problem:
                if not process.alive():
                    raise PeerError(f"died with status {process.stop()}") from None
                if time.monotonic() > deadline:
                    words = str(problem).splitlines()[-1]
                    raise PeerError(f"no connection through it in {START_PATIENCE:.0f} s ({words})") from None
                time.sleep(0.05)
    finally:
        listener.stop()


def _tail(path: Path, lines: int = 5) -> str:
    try:
        return " | ".join(path.read_text(errors="replace").splitlines()[-lines:]) or "(empty)"
    except FileNotFoundError:
        return "(no log)"
