"""iperf3 over UDP, a foreign program at both ends: a known number of bytes, and who has how many of them.

The rate is far below what the daemon can do. What a busy machine may still lose is what the receiving
kernel had no room for because iperf3 did not run: that, and nothing else, is allowed for.
"""

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.support.agent import GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.metrics import counted
from tests.support.netns import INTERNET_ADDR, Namespace, Network, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed"),
]

PORT = 5201
SIZE = 1200
COUNT = 1000
RATE = "6M"
SECONDS = 60.0


@pytest.fixture(params=["up", "down"])
def direction(request: pytest.FixtureRequest) -> str:
    """up: the client sends; down: the server does (-R)."""
    return str(request.param)


class Server:
    """iperf3 for one run in a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._process = namespace.popen(
            ["iperf3", "-s", "-1", "-p", str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: f":{PORT} " in namespace.run("ss", "-Htln").stdout, "the iperf3 server")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def measure(client: Namespace, address: str, direction: str) -> dict[str, Any]:
    """COUNT datagrams of SIZE bytes in one direction; what iperf3 found."""
    words = ["-c", address, "-p", str(PORT), "-u", "-b", RATE, "-l", str(SIZE), "-n", str(SIZE * COUNT), "-J"]
    words += ["-R"] if direction == "down" else []
    done = client.run("iperf3", *words, timeout=SECONDS, check=False)
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in outcome, outcome["error"]
    return outcome


def no_room(namespace: Namespace) -> int:
    """Datagrams that the namespace's kernel dropped because a socket was full."""
    names, values = [
        line.split()
        for line in namespace.run("cat", "/proc/net/snmp").stdout.splitlines()
        if line.startswith("Udp:")
    ]
    return int(values[names.index("RcvbufErrors")])


def dropped(daemon: Daemon) -> dict[str, int]:
    """What the daemon says it lost of datagrams or frames, by the counter."""
    kinds = ("udp_datagram_dropped", "egress_datagram_dropped", "link_frame_dropped", "link_data_dropped")
    return {
        name: sum(values.values())
        for name, values in counted(daemon.api("/metrics")[1].decode()).items()
        if name.startswith(kinds) and any(values.values())
    }


def check(daemon: Daemon, outcome: dict[str, Any], receiver: Namespace, to_guest: bool) -> None:
    """Every datagram went through the daemon, whole and in order, and iperf3 misses none of them."""
    counter = "udp_datagrams_to_guest" if to_guest else "egress_datagrams_to_host"

    def through() -> int:
        total = sum(daemon.gauge(counter).values())
        if to_guest:
            total -= sum(daemon.gauge("dhcp_offer_sent").values()) + sum(
                daemon.gauge("dhcp_ack_sent").values()
            )
        return total

    # A server that sends goes on until its client has told it to stop, so it may send a few more.
    sent = outcome["end"]["sum_sent"]["packets"]
    assert sent >= COUNT
    # iperf3 itself says hello with one datagram each way. What the API shows may be a second old.
    wait_for(lambda: through() == sent + 1, f"{sent} datagrams and a greeting in {counter}")
    assert dropped(daemon) == {}
    end = outcome["end"]
    assert end["streams"][0]["udp"]["out_of_order"] == 0
    received = end.get("sum_received", end["sum"])
    assert received["lost_packets"] <= no_room(receiver)
    assert received["bytes"] == SIZE * (received["packets"] - received["lost_packets"])
    # Over its connection the sender says that this was all, and that may overtake the last datagrams.
    assert received["packets"] > COUNT / 2


def test_datagrams_between_the_guest_and_a_server_outside(
    daemon: Daemon, network: Network, agent: Agent, direction: str
) -> None:
    up = direction == "up"
    with Server(network.internet):
        outcome = measure(agent.guest, INTERNET_ADDR, direction)
    check(daemon, outcome, network.internet if up else agent.guest, to_guest=not up)


def test_datagrams_between_the_host_and_a_forwarded_server_in_the_guest(
    daemon: Daemon, network: Network, agent: Agent, direction: str
) -> None:
    up = direction == "up"
    for protocol in ("tcp", "udp"):
        daemon.expose(f"127.0.0.1:{PORT}", f"{GUEST_ADDR}:{PORT}", protocol)
    with Server(agent.guest):
        outcome = measure(network.host, "127.0.0.1", direction)
    check(daemon, outcome, agent.guest if up else network.host, to_guest=up)
