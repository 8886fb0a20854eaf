"""A guest for tests: the project's agent in a guest namespace, with an address.

with Agent(network.guest, daemon.socket) as agent: ...
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from perf import compiled
from tests.support import last_words, quick_start
from tests.support.netns import Namespace, wait_for

GATEWAY_ADDR = "192.168.127.1"
GUEST_ADDR = "192.168.127.2"
HOST_ADDR = "192.168.127.254"
GUEST_MAC = "5a:94:ef:e4:0c:ee"
STOP_SECONDS = 10.0


class Agent:
    """gvtap-guest on the daemon's unix socket. By default it uses the built-in DHCP client."""

    def __init__(
        self,
        guest: Namespace,
        socket: Path,
        *flags: str,
        mac: str = GUEST_MAC,
        env: dict[str, str] | None = None,
    ) -> None:
        self.guest = guest
        self.log_path = socket.parent / f"agent-{guest.name}.log"
        self._env = env
        self._argv = [*compiled.command("gvtap-guest"), "-url", f"unix://{socket}", "-mac", mac]
        if "-dhcp" not in flags and "-address" not in flags:
            self._argv += ["-dhcp", "builtin"]
        self._argv += flags
        self._process: subprocess.Popen[bytes] | quick_start.Process | None = None

    def start(self) -> None:
        """Start the agent, and do not wait for an address."""
        with self.log_path.open("ab") as log:
            self._process = self.guest.start(
                quick_start.AGENT, self._argv, stdout=log, stderr=log, env=self._env
            )

    @property
    def process(self) -> "subprocess.Popen[bytes] | quick_start.Process":
        """The agent's process."""
        assert self._process is not None, "not started"
        return self._process

    def wait_for_address(self, seconds: float = 15.0) -> str:
        """Wait until tap0 has an address and a default route. Returns the address."""

        def settled() -> str:
            assert self.process.poll() is None, f"the agent ended\n{self.log_path.read_text()}"
            return address(self.guest) if default_route(self.guest) else ""

        try:
            return wait_for(settled, f"an address in {self.guest.name}", seconds, 0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_path.read_text()}") from None

    def run(self, command: str, *words: object, timeout: float = 120.0) -> dict[str, Any]:
        """Run a command of tests.support.client in the guest. Returns its result."""
        return run_client(self.guest, command, *words, timeout=timeout)

    def let_connections_end(self, seconds: float = 2.0) -> None:
        """Wait until the daemon has the guest's last segments."""
        last_words.arrive(self.guest, self.process.pid, seconds)

    def stop(self) -> None:
        """Send SIGTERM. The agent must end with status 0."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_SECONDS + 3.0)
        assert status == 0, f"the agent ended with {status}\n{self.log_path.read_text()}"

    def __enter__(self) -> "Agent":
        self.start()
        self.wait_for_address()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.let_connections_end()
            self.stop()
            return
        sys.stderr.write(self.log_path.read_text())
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def run_client(namespace: Namespace, command: str, *words: object, timeout: float = 120.0) -> dict[str, Any]:
    """Run a command of tests.support.client in a namespace. Returns its result."""
    argv = (sys.executable, "-m", "tests.support.client", command, *map(str, words))
    outcome: dict[str, Any] = json.loads(namespace.ask(quick_start.CLIENT, *argv, timeout=timeout).stdout)
    return outcome


def address(guest: Namespace, interface: str = "tap0") -> str:
    """The IPv4 address of an interface with its prefix length, "" if it has none."""
    shown = guest.run("ip", "-j", "-4", "address", "show", "dev", interface, check=False)
    if shown.returncode != 0:
        return ""
    for link in json.loads(shown.stdout or "[]"):
        for info in link.get("addr_info", []):
            return f"{info['local']}/{info['prefixlen']}"
    return ""


def default_route(guest: Namespace) -> str:
    """The gateway of the default route, "" if there is none."""
    routes = json.loads(guest.run("ip", "-j", "-4", "route", "show", "default").stdout or "[]")
    return str(routes[0].get("gateway", "")) if routes else ""


def link_mtu(guest: Namespace, interface: str = "tap0") -> int:
    """The MTU of an interface."""
    return int(json.loads(guest.run("ip", "-j", "link", "show", "dev", interface).stdout)[0]["mtu"])
