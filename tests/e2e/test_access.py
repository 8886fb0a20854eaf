"""Settings that restrict the API: a token on the host, and what guests may ask for."""

import json
import signal

import pytest

from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import Network
from tests.support.servers import ECHO, Servers

pytestmark = pytest.mark.e2e

LOCAL = "127.0.0.1"


def test_the_host_needs_the_token_and_guests_do_not(network: Network, outside: Servers) -> None:
    path = network.directory / "token"
    path.write_text("s3cret\n")
    daemon = Daemon(network, "-api-token-file", str(path))
    daemon.start()
    curl = ("curl", "-sS", "-w", "%{http_code}", "--unix-socket", str(daemon.socket), "http://unix/leases")
    assert network.host.run(*curl).stdout == "unauthorized: this endpoint needs a bearer token\n401"
    answer = network.host.run(*curl, "-H", "Authorization: Bearer s3cret").stdout
    assert answer.endswith("}\n200")
    with Agent(network.guest, daemon.socket) as agent:
        url = f"http://{GATEWAY_ADDR}/services/forwarder/all"
        assert agent.guest.run("curl", "-sS", url).stdout == "[]\n"
    # Not by stop(), which asks without a token.
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(5) == 0


def test_a_guest_is_told_which_addresses_of_the_host_are_not_for_it(
    network: Network, outside: Servers
) -> None:
    path = network.directory / "guest-api.yaml"
    path.write_text("guest-api: {unix: false, addresses: [127.0.0.0/8], ports: [1024-65535]}\n")
    with Daemon(network, "-config", str(path)) as daemon, Agent(network.guest, daemon.socket) as agent:

        def expose(**wish: str) -> str:
            url = "http://192.168.127.1/services/forwarder/expose"
            words = ("curl", "-sS", "-w", "%{http_code}", "-d", json.dumps(wish), url)
            return agent.guest.run(*words).stdout

        assert expose(local=f"{LOCAL}:9000", remote=f":{ECHO}") == "200"
        assert expose(local=":9001", remote=":1") == "guests may not forward the host's address 0.0.0.0\n403"
        assert expose(local=f"{LOCAL}:80", remote=":1").endswith("403")
        assert expose(local="/tmp/x", remote="tcp://192.168.127.2:1", protocol="unix").endswith("403")
        assert daemon.gauge("api_request_refused_guest")["supervisor"] == 3
        # The host itself may.
        daemon.expose("0.0.0.0:9002", f"{GUEST_ADDR}:1")
