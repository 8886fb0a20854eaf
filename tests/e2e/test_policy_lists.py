"""Files with names that change while the daemon runs, and the preset `public`, from a guest's view."""

import pytest

from tests.support.agent import GATEWAY_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import ECHO, Servers

pytestmark = pytest.mark.e2e

PUBLIC_ADDR = "8.8.8.8"
OWN_ADDR = "8.8.4.4"
REFUSED = {"EHOSTUNREACH", "ECONNREFUSED", "EACCES"}


def rcode(agent: Agent, name: str) -> str:
    return str(agent.run("resolve", GATEWAY_ADDR, name, "A", "udp")["rcode"])


def test_names_of_a_file_are_in_force_when_it_changes(network: Network, outside: Servers) -> None:
    names = network.directory / "names.txt"
    names.write_text("www.example.test\n")
    path = network.directory / "lists.yaml"
    path.write_text(
        "egress-policy:\n  preset: locked\n"
        f"  rules: [{{action: allow, name-files: [{names}], stated: ignore}}]\n"
    )
    with Daemon(network, "-config", str(path)) as daemon, Agent(network.guest, daemon.socket) as agent:
        assert rcode(agent, "www.example.test") == "NOERROR"
        assert rcode(agent, "many.example.test") == "REFUSED"
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
        names.write_text("many.example.test\n")
        wait_for(lambda: daemon.events("names reloaded"), "the names", 20)
        assert rcode(agent, "many.example.test") == "NOERROR"
        assert rcode(agent, "www.example.test") == "REFUSED"
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in REFUSED
        daemon.expect_errors = True
        names.write_text("not a name\n")
        wait_for(lambda: daemon.events("names not reloaded: nothing has changed"), "the mistake", 20)
        assert rcode(agent, "many.example.test") == "NOERROR"


def test_public_is_the_internet_and_nothing_inside(network: Network, outside: Servers) -> None:
    network.internet.ip("address", "add", f"{PUBLIC_ADDR}/32", "dev", "lo")
    network.host.ip("address", "add", f"{OWN_ADDR}/32", "dev", "lo")
    path = network.directory / "public.yaml"
    path.write_text("egress-policy: {preset: public}")
    server = Servers(network.host, network.directory, OWN_ADDR)
    try:
        with Daemon(network, "-config", str(path)) as daemon, Agent(network.guest, daemon.socket) as agent:
            assert agent.run("connect", PUBLIC_ADDR, ECHO)["errno"] == ""
            for address in (OWN_ADDR, INTERNET_ADDR, "192.168.127.254", "10.0.0.1", "169.254.169.254"):
                assert agent.run("connect", address, ECHO)["errno"] in REFUSED, address
            assert rcode(agent, "www.example.test") == "NOERROR"
            assert rcode(agent, "rebound.example.test") == "REFUSED"
    finally:
        server.close()
