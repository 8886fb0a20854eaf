"""Settings that restrict the API: a token on the host, and what guests may ask for."""

import json
import signal

import pytest

from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.gvproxy import Gvproxy
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


def test_a_guest_opens_no_socket_on_the_host_unless_the_program_is_gvproxys(
    network: Network, outside: Servers
) -> None:
    path = network.directory / "from-guest.sock"
    wish = {"local": str(path), "remote": f"tcp://{GUEST_ADDR}:{ECHO}", "protocol": "unix"}

    def ask(agent: Agent, name: str, wish: dict[str, str]) -> str:
        url = f"http://{GATEWAY_ADDR}/services/forwarder/{name}"
        words = ("curl", "-sS", "-w", "%{http_code}", "-d", json.dumps(wish), url)
        return agent.guest.run(*words).stdout

    with Daemon(network) as daemon, Agent(network.guest, daemon.socket) as agent:
        assert ask(agent, "expose", wish) == "guests may not forward unix sockets of the host\n403"
        assert not path.exists()
    listen = network.directory / "gvproxy.sock"
    with (
        Gvproxy(network, "-listen", f"unix://{listen}") as gvproxy,
        Agent(network.guest, listen) as agent,
    ):
        # What podman asks for, and the original's own tests.
        publish = {"local": "127.0.0.1:9000", "remote": f":{ECHO}", "protocol": "tcp"}
        assert ask(agent, "expose", publish) == "200"
        assert ask(agent, "unexpose", {"local": "127.0.0.1:9000", "protocol": "tcp"}) == "200"
        assert ask(agent, "expose", wish) == "200"
        assert path.is_socket()
        assert "proxy already running" in ask(agent, "expose", wish)
        assert ask(agent, "unexpose", wish) == "200"
        assert not path.exists()
        over_ssh = {**wish, "remote": f"ssh-tunnel://root@{GUEST_ADDR}/run/s?key=/etc/passwd"}
        assert ask(agent, "expose", over_ssh) == "guests may not forward over ssh\n403"
        assert gvproxy.process.poll() is None


def test_a_web_page_on_the_host_reaches_nothing_over_tcp(network: Network, outside: Servers) -> None:
    with Daemon(network, "-listen", f"tcp://{LOCAL}:7000") as daemon:
        curl = ("curl", "-sS", "-w", "%{http_code}")
        url = f"http://{LOCAL}:7000"
        assert network.host.run(*curl, f"{url}/leases").stdout.endswith("}\n200")
        assert network.host.run(*curl, "-H", "Host: evil.example", f"{url}/leases").stdout.endswith("\n403")
        page = (*curl, "-H", "Origin: http://evil.example", "-d", "{}")
        for path in ("/services/forwarder/expose", "/connect", f"/tunnel?ip={GUEST_ADDR}&port=22"):
            assert network.host.run(*page, url + path).stdout.endswith("\n403"), path
        assert daemon.gauge("api_request_refused_web_page")["supervisor"] == 4
        assert not daemon.events("guest connected")


def test_a_guest_does_not_reach_the_api_of_the_host_over_the_hosts_loopback(
    network: Network, outside: Servers
) -> None:
    with (
        Daemon(network, "-listen", f"tcp://{LOCAL}:7000") as daemon,
        Agent(network.guest, daemon.socket) as agent,
    ):
        answer = agent.guest.run("curl", "-sS", "-m", "5", "http://192.168.127.254:7000/leases", check=False)
        assert answer.returncode == 7, "the connection is refused"
        assert sum(daemon.gauge("nat_flow_refused_own_port").values()) == 1
