"""A daemon of plain sources, as in an editable install or without a C compiler, beside the compiled ones."""

import os
from collections.abc import Iterator

import pytest

from perf import compiled
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent, run_client
from tests.support.daemon import Daemon, is_compiled
from tests.support.netns import INTERNET_ADDR, Network
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
LOCAL = "127.0.0.1"


@pytest.fixture(params=["separate", "auto"])
def daemon(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Daemon]:
    """A plain daemon; stopped and audited behind the test."""
    with Daemon(network, "-placement", request.param, plain=True) as made:
        assert not any(is_compiled(pid) for pid in made.workers().values())
        yield made


def test_a_plain_daemon_carries_streams_datagrams_and_names(
    daemon: Daemon, network: Network, agent: Agent, inside: Servers
) -> None:
    assert agent.run("transfer", INTERNET_ADDR, DATA, 8 * MIB, 8 * MIB, 4)["errors"] == []
    assert agent.run("burst", INTERNET_ADDR, UDP_ECHO, "1400*30,0,7*5", 3)["received"] == 108
    for protocol in ("udp", "tcp"):
        found = agent.run("resolve", GATEWAY_ADDR, "www.example.test", "A", protocol)
        assert found["answers"] == [INTERNET_ADDR], protocol
    daemon.expose(f"{LOCAL}:9000", f"{GUEST_ADDR}:{DATA}")
    daemon.expose(f"{LOCAL}:9001", f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
    assert run_client(network.host, "transfer", LOCAL, 9000, MIB, MIB, 4)["errors"] == []
    assert run_client(network.host, "udp", LOCAL, 9001, 1400, 10)["received"] == 10


def test_daemons_of_this_run_are_what_its_head_says(network: Network) -> None:
    with Daemon(network) as made:
        seen = {is_compiled(pid) for pid in made.workers().values()}
    acted = bool(os.environ.get("GVTAP_TEST_SYSTEM"))
    assert seen == {compiled.kind() == "compiled" and not acted}
