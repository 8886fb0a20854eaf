"""Demonstrates the whole program on this machine: python -m perf.demo (make demo).

The demo makes a guest, a host and a small internet as network namespaces. It starts the daemon on the host
and the agent in the guest. The guest then gets an address, resolves names, pings and transfers data. The demo
prints a line for each step, and removes everything at the end. The exit status is 0 if all steps succeeded.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import netns
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent, address
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Namespace, Network, wait_for
from tests.support.servers import HTTP, PAGE, Servers

IPERF_PORT = 5201
IPERF_SECONDS = 3
EXPOSED = "127.0.0.1:8080"
TITLE_WIDTH = 46


class Demo:
    """The steps. Each prints a line, and a failure is remembered."""

    def __init__(self, network: Network, daemon: Daemon, agent: Agent) -> None:
        self.network = network
        self.daemon = daemon
        self.agent = agent
        self.failed = 0

    def step(self, title: str, action: Callable[[], str]) -> None:
        """Run one step, and print what it returns."""
        try:
            shown, mark = action(), "ok  "
        except Exception as error:  # whatever goes wrong is this step's failure, and the next one follows
            lines = str(error).strip().splitlines() or [type(error).__name__]
            shown, mark = ": ".join(dict.fromkeys((lines[0], lines[-1]))), "FAIL"
            self.failed += 1
        print(f"{mark}  {title:<{TITLE_WIDTH}} {shown}", flush=True)

    def run(self) -> None:
        """Run all steps in order."""
        self.step("daemon started", self.start_daemon)
        self.step("guest has an address by DHCP", self.start_agent)
        self.step("guest pings the gateway", self.ping)
        self.step("guest resolves a name of the internet", self.resolve_outside)
        self.step("guest resolves the host's name", self.resolve_host)
        self.step("guest fetches a page from outside", self.fetch_outside)
        self.step("host fetches a page from the guest", self.fetch_inside)
        self.step("iperf3 guest to internet (up)", lambda: self.iperf())
        self.step("iperf3 internet to guest (down)", lambda: self.iperf("-R"))
        self.step("daemon stopped, nothing is left", self.stop)

    def start_daemon(self) -> str:
        """Start the daemon, and wait until it is ready."""
        self.daemon.start()
        return f"ready after {self.daemon.start_seconds * 1000:.0f} ms, {len(self.daemon.workers())} workers"

    def start_agent(self) -> str:
        """Start the agent, with a DHCP client that the machine has."""
        began = time.monotonic()
        self.agent.start()
        self.agent.wait_for_address()
        return f"{address(self.agent.guest)} after {(time.monotonic() - began) * 1000:.0f} ms"

    def ping(self) -> str:
        """Send three echo requests."""
        text = self.agent.guest.run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", GATEWAY_ADDR).stdout
        found = re.search(r"(\d) received.*?= [\d.]+/([\d.]+)/", text, re.DOTALL)
        assert found is not None, text
        assert found[1] == "3", text
        return f"3 of 3 answered, {found[2]} ms on average"

    def resolve_outside(self) -> str:
        """Look up a name with the host's resolver."""
        return self._resolve("www.example.test", INTERNET_ADDR)

    def resolve_host(self) -> str:
        """Look up a name of the built-in zones."""
        return self._resolve("host.containers.internal", "192.168.127.254")

    def _resolve(self, name: str, expected: str) -> str:
        text = self.agent.guest.run("getent", "ahostsv4", name).stdout.split()
        assert text[:1] == [expected], f"{name}: {text}"
        return f"{name} is {expected}"

    def fetch_outside(self) -> str:
        """Fetch a page from a server outside, by name."""
        return self._fetch(self.agent.guest, "http://www.example.test/")

    def fetch_inside(self) -> str:
        """Fetch a page from a server in the guest, through an exposed port."""
        servers = Servers(self.agent.guest, self.network.directory)
        try:
            self.daemon.expose(EXPOSED, f"{GUEST_ADDR}:{HTTP}")
            return self._fetch(self.network.host, f"http://{EXPOSED}/")
        finally:
            servers.close()

    def _fetch(self, where: Namespace, url: str) -> str:
        page = where.run("curl", "-sS", "-f", "-m", "10", url).stdout
        assert page.encode() == PAGE, f"{url}: {page[:80]!r}"
        return f"{url}, {len(page)} bytes"

    def iperf(self, *flags: str) -> str:
        """Run one TCP stream for a few seconds."""
        server = self.network.internet.popen(
            ["iperf3", "-s", "-1", "-p", str(IPERF_PORT)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(self._iperf_listens, "the iperf3 server")
            words = ("-c", INTERNET_ADDR, "-p", str(IPERF_PORT), "-t", str(IPERF_SECONDS), "-J", *flags)
            outcome = json.loads(self.agent.guest.run("iperf3", *words, timeout=IPERF_SECONDS + 20).stdout)
        finally:
            server.kill()
            server.wait()
        assert "error" not in outcome, outcome["error"]
        return f"{outcome['end']['sum_received']['bits_per_second'] / 1e9:.2f} Gbit/s"

    def _iperf_listens(self) -> bool:
        return f":{IPERF_PORT} " in self.network.internet.run("ss", "-Htln").stdout

    def stop(self) -> str:
        """Stop the agent and then the daemon, which checks at its end that nothing is left."""
        self.agent.stop()
        self.daemon.wait_for_free_slots()
        began = time.monotonic()
        self.daemon.stop()
        return f"{(time.monotonic() - began) * 1000:.0f} ms, status 0"


def main() -> int:
    """Run the demo. Returns 0 if all steps succeeded."""
    reason = netns.missing()
    if reason:
        print(f"the demo cannot run here: {reason}", file=sys.stderr)
        return 1
    # The demo removes its namespaces also after SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Network() as network:
        servers = Servers(network.internet, network.directory)
        daemon = Daemon(network)
        demo = Demo(network, daemon, Agent(network.guest, daemon.socket, "-dhcp", "auto"))
        demo.run()
        servers.close()
        if demo.failed:
            kept = Path(tempfile.mkdtemp(prefix="gvtap-demo-")) / "daemon.log"
            kept.write_text(daemon.log_text())
            print(f"{demo.failed} steps failed; the daemon's log is in {kept}", file=sys.stderr)
    return 1 if demo.failed else 0


if __name__ == "__main__":
    sys.exit(main())
