"""A cluster of real NATS servers for tests, one in the namespace of each host."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.fleet import FleetHost, host_addr
from tests.support.netns import wait_for

CLIENT_PORT = 4222
ROUTE_PORT = 6222
PROGRAM = "nats-server"


def missing() -> str:
    """Why there can be no cluster; "" if there can."""
    return "" if shutil.which(PROGRAM) else f"needs {PROGRAM}"


class NatsServer:
    """One server of the cluster."""

    def __init__(self, host: FleetHost, cluster: list[int], more: str = "") -> None:
        """cluster: the numbers of all hosts with a server. more: further lines of the configuration."""
        self.host = host
        self.url_host = host_addr(host.number)
        self._path = host.directory / "nats.conf"
        self._log = host.directory / "nats.log"
        routes = ", ".join(f"nats-route://{host_addr(each)}:{ROUTE_PORT}" for each in cluster)
        together = (
            f'cluster {{ name: fleet, listen: "{self.url_host}:{ROUTE_PORT}", routes: [{routes}] }}\n'
            if len(cluster) > 1
            else ""
        )
        self._path.write_text(
            f'server_name: n{host.number}\nlisten: "{self.url_host}:{CLIENT_PORT}"\n'
            f'jetstream {{ store_dir: "{host.directory / "jetstream"}" }}\n{together}{more}'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        with self._log.open("ab") as log:
            self._process = self.host.host.popen(
                [PROGRAM, "-c", str(self._path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._answers, f"NATS server {self.host.number}", 10.0)

    def _answers(self) -> bool:
        try:
            self.host.host.call(lambda: socket.create_connection((self.url_host, CLIENT_PORT), 1.0)).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it at once. Its files stay."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def log_text(self) -> str:
        """The log of all its runs."""
        return self._log.read_text(errors="replace")


class NatsCluster:
    """A server on each of some hosts."""

    def __init__(self, hosts: list[FleetHost], more: str = "") -> None:
        numbers = [host.number for host in hosts]
        self.servers = [NatsServer(host, numbers, more) for host in hosts]
        self.url = "nats://" + ",".join(server.url_host for server in self.servers)

    def start(self) -> None:
        """Start all servers."""
        for server in self.servers:
            server.start()

    def kill(self) -> None:
        """Kill all servers."""
        for server in self.servers:
            server.kill()

    def __enter__(self) -> "NatsCluster":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def seed(directory: Path, name: str) -> tuple[str, str]:
    """The file of a new nkey's seed, and the public key for the servers."""
    nkeys = pytest.importorskip("nkeys")
    made = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    path = directory / f"{name}.seed"
    path.write_bytes(made)
    return str(path), nkeys.from_seed(bytearray(made)).public_key.decode()


class LocalServer:
    """One server on loopback, without namespaces. Its configuration is the test's."""

    def __init__(self, directory: Path, config: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._path = directory / "nats.conf"
        self._path.write_text(
            f'server_name: n0\nlisten: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{directory / "jetstream"}" }}\n{config}\n'
        )
        self._log = directory / "nats.log"

    def __enter__(self) -> "LocalServer":
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-c", str(self._path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._answers, "the NATS server", 10.0)
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


UDHCPC_SCRIPT = """#!/bin/sh
case "$1" in
bound|renew)
    ip address flush dev "$interface"
    ip address add "$ip/$mask" dev "$interface"
    ip link set "$interface" mtu "${mtu:-1500}"
    ip route replace default via "$router"
    ;;
esac
"""


def dhcp(host: FleetHost, name: str = "", *, tries: int = 20, guest: int = 0) -> str:
    """Have the guest ask for an address by DHCP. Returns the address; "" if it got none."""
    script = Path(host.directory) / "udhcpc.sh"
    script.write_text(UDHCPC_SCRIPT)
    script.chmod(0o755)
    named = ("-x", f"hostname:{name}") if name else ()
    namespace = host.guests[guest]
    namespace.run(
        *(
            "busybox",
            "udhcpc",
            "-i",
            "eth0",
            "-f",
            "-q",
            "-n",
            "-t",
            str(tries),
            "-T",
            "1",
            "-s",
            str(script),
        ),
        *named,
        check=False,
    )
    words = namespace.run("ip", "-4", "-o", "address", "show", "dev", "eth0").stdout.split()
    return words[words.index("inet") + 1].partition("/")[0] if "inet" in words else ""
