"""The egress policy from a guest's view: by network, port and name, for TCP, UDP and ping."""

from collections.abc import Iterator

import pytest

from tests.support.agent import GATEWAY_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, SECOND_ADDR, Network, wait_for
from tests.support.servers import DATA, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

POLICY = f"""
egress-policy:
  default: deny
  rules:
    - {{action: deny, networks: [{SECOND_ADDR}], ports: [{DATA}]}}
    - {{action: allow, networks: [{SECOND_ADDR}]}}
    - {{action: allow, names: ["*.example.test"], ports: [{ECHO}-{UDP_ECHO}], guests: [192.168.127.0/24]}}
"""
REFUSED = {"EHOSTUNREACH", "ECONNREFUSED", "EACCES"}


@pytest.fixture
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    path = network.directory / "policy.yaml"
    path.write_text(POLICY)
    with Daemon(network, "-config", str(path)) as made:
        yield made


def refusals(daemon: Daemon) -> int:
    return daemon.gauge("egress_flow_refused_policy")["egress0"]


def test_networks_and_ports_decide(daemon: Daemon, agent: Agent) -> None:
    assert agent.run("connect", SECOND_ADDR, ECHO)["errno"] == ""
    refused = agent.run("connect", SECOND_ADDR, DATA)
    assert refused["errno"] in REFUSED
    assert refused["seconds"] < 2
    with pytest.raises(AssertionError, match="No route to host"):
        # The message of ICMP that tells it prohibited is an error of the guest's socket.
        agent.run("udp", INTERNET_ADDR, UDP_ECHO, 100, 1)
    ping = agent.guest.run("ping", "-c", "1", "-W", "1", INTERNET_ADDR, check=False)
    assert f"From {GATEWAY_ADDR} icmp_seq=1 Packet filtered" in ping.stdout
    assert refusals(daemon) == 3
    lines = daemon.events("flow refused by the egress policy")
    assert {"192.168.127.2", f"{SECOND_ADDR}:{DATA}"} <= set(lines[0].values())


@pytest.mark.parametrize("how", ["udp", "tcp"])
def test_an_address_is_open_once_the_gateway_has_named_it(daemon: Daemon, agent: Agent, how: str) -> None:
    assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in REFUSED
    answer = agent.run("resolve", GATEWAY_ADDR, "www.example.test", "A", how)
    assert answer["answers"] == [INTERNET_ADDR]
    assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
    assert agent.run("udp", INTERNET_ADDR, UDP_ECHO, 100, 3)["received"] == 3
    assert agent.run("connect", INTERNET_ADDR, DATA)["errno"] in REFUSED


def test_the_services_of_the_gateway_are_no_egress(daemon: Daemon, agent: Agent) -> None:
    url = f"http://{GATEWAY_ADDR}/services/forwarder/all"
    assert agent.guest.run("curl", "-sS", "-f", url).stdout == "[]\n"
    assert refusals(daemon) == 0


def test_a_name_given_to_one_guest_opens_nothing_for_another(
    daemon: Daemon, agent: Agent, network: Network
) -> None:
    with Agent(network.guests[1], daemon.socket, mac="02:00:00:00:00:02") as other:
        agent.run("resolve", GATEWAY_ADDR, "www.example.test", "A", "udp")
        assert other.run("connect", INTERNET_ADDR, ECHO)["errno"] in REFUSED
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""


def test_a_flow_to_a_foreign_name_server_ends_with_its_answer(network: Network, outside: Servers) -> None:
    with Daemon(network) as daemon, Agent(network.guest, daemon.socket) as agent:
        for _ in range(3):
            answer = agent.run("resolve", INTERNET_ADDR, "www.example.test", "A", "udp")
            assert answer["answers"] == [INTERNET_ADDR]
        wait_for(lambda: daemon.gauge("udp_flows")["demux"] == 0, "no UDP flow is left", 3)
