"""Quotas with a guest's kernel: what is refused and cut, what the API says, and what outlives processes."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_restarted import Restartable
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.holder import Holder
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

NO_WAY = {"EHOSTUNREACH", "ECONNREFUSED", "EACCES"}
CUT = {"ConnectionResetError", "BrokenPipeError"}
RULE = "egress-policy.quotas[0]"
NAME = "www.example.test"
OTHER_MAC = "02:00:00:00:00:02"


@pytest.fixture(params=[("separate", 1), ("auto", 2)], ids=["separate", "auto, two egress"])
def daemon(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Daemon]:
    placement, workers = request.param
    with Daemon(network, "-placement", placement, "-egress-workers", str(workers)) as made:
        yield made


def put(daemon: Daemon, *quotas: dict[str, Any]) -> None:
    status, text = daemon.api("/policy", {"quotas": list(quotas)}, "PUT")
    assert status == 200, text


def used(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {each["guest"]: each for each in json.loads(daemon.api("/quotas")[1])}


def reset(daemon: Daemon, **asked: str) -> int:
    status, text = daemon.api("/quotas/reset", asked)
    assert status == 200, text
    return int(json.loads(text)["accounts"])


def connects(daemon: Daemon, agent: Agent) -> bool:
    # The workers tell each other what they have counted once a second, and when a client asks.
    used(daemon)
    found = agent.run("connect", INTERNET_ADDR, ECHO)["errno"]
    assert found in NO_WAY | {""}
    return not found


def test_bytes_are_used_up_and_given_back(daemon: Daemon, agent: Agent) -> None:
    put(daemon, {"per": "day", "bytes": "2MB"})
    with (
        Holder(agent.guest, "tcp", INTERNET_ADDR, ECHO) as held,
        Holder(agent.guest, "udp", INTERNET_ADDR, UDP_ECHO) as datagrams,
    ):
        assert held.echo() == datagrams.echo() == "word"
        done = agent.run("transfer", INTERNET_ADDR, DATA, 700_000, 700_000, 1)
        assert done["errors"] == []
        ((guest, use),) = used(daemon).items()
        assert guest.startswith("process ")
        assert 1_400_000 <= use["bytes_from_guest"] + use["bytes_to_guest"] <= 1_500_000
        assert use["ends_at"].endswith("T00:00:00Z")
        assert use["quotas"][0]["limit"] == "bytes"
        agent.run("transfer", INTERNET_ADDR, DATA, 700_000, 700_000, 1)
        wait_for(lambda: held.echo() in CUT, "the end of the open connection")
        assert not connects(daemon, agent)
        assert datagrams.echo() != "word"
    wait_for(lambda: daemon.events("a guest has used up a quota"), "the line of the log")
    (line,) = daemon.events("a guest has used up a quota")
    assert (line["guest"], line["rule"], line["limit"], line["most"]) == (guest, RULE, "bytes", 2_000_000)
    assert sum(daemon.gauge("egress_flow_refused_quota").values()) >= 1
    assert sum(daemon.gauge("egress_flow_closed_quota").values()) >= 1
    number = str(use["guests"][0])
    assert reset(daemon, guest=number, per="day") == 1
    assert connects(daemon, agent)
    assert used(daemon)[guest]["connections"] == 1


def test_connections_and_questions_each_have_their_own_number(daemon: Daemon, agent: Agent) -> None:
    put(daemon, {"guests": [GUEST_ADDR], "connections": 3, "dns-questions": 2})
    for _ in range(2):
        assert agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")["rcode"] == "NOERROR"
    assert agent.run("resolve", GATEWAY_ADDR, NAME, "A", "tcp")["rcode"] == "REFUSED"
    with Holder(agent.guest, "tcp", INTERNET_ADDR, ECHO) as held:
        assert held.echo() == "word"
        assert [connects(daemon, agent) for _ in range(3)] == [True, True, False]
        assert held.echo() == "word", "it was there before"
    ask = {"guest": GUEST_ADDR, "address": INTERNET_ADDR, "port": ECHO}
    explained = json.loads(daemon.api("/policy/explain", ask)[1])
    assert (explained["allowed"], explained["rule"]) == (False, RULE)
    assert used(daemon)[GUEST_ADDR]["connections"] == 3
    assert used(daemon)[GUEST_ADDR]["dns_questions"] == 2
    assert daemon.api("/quotas/reset", {"guest": "10.9.9.9"})[0] == 404
    assert reset(daemon, guest=GUEST_ADDR) == 1
    assert connects(daemon, agent)
    assert agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")["rcode"] == "NOERROR"


def test_each_guest_has_its_own_account(daemon: Daemon, agent: Agent, network: Network) -> None:
    with Agent(network.guests[1], daemon.socket, mac=OTHER_MAC) as other:
        put(daemon, {"connections": 1}, {"guests": [OTHER_MAC], "bytes-to-guest": 100_000})
        assert [connects(daemon, agent), connects(daemon, agent)] == [True, False]
        other.run("transfer", INTERNET_ADDR, DATA, 500_000, 0, 1)
        assert not connects(daemon, other)
        assert used(daemon)[OTHER_MAC]["bytes_to_guest"] >= 100_000
        assert reset(daemon) == 3
        assert [connects(daemon, agent), connects(daemon, other)] == [True, True]


def test_what_was_used_outlives_workers(network: Network, outside: Servers) -> None:
    with Daemon(network) as daemon, Agent(network.guest, daemon.socket) as agent:
        put(daemon, {"connections": 3, "dns-questions": 1})
        assert [connects(daemon, agent), connects(daemon, agent)] == [True, True]
        assert agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")["rcode"] == "NOERROR"
        assert [each["connections"] for each in used(daemon).values()] == [2]
        daemon.expect_errors = True
        pids = daemon.workers()
        for count, worker in enumerate(("egress0", "resolver", "demux")):
            os.kill(pids[worker], signal.SIGKILL)
            wait_for(lambda count=count: len(daemon.events("worker replaced")) > count, "the successor", 20)
        assert agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")["rcode"] == "REFUSED"
        assert [connects(daemon, agent), connects(daemon, agent)] == [True, False]


def test_what_was_used_outlives_the_daemon_in_a_file(network: Network, outside: Servers) -> None:
    path, file = network.directory / "quotas.yaml", network.directory / "used.json"
    path.write_text(
        f"quota-file: {file}\negress-policy: {{quotas: [{{guests: [{GUEST_ADDR}], connections: 2}}]}}\n"
    )
    try:
        with Daemon(network, "-config", str(path)) as daemon, Agent(network.guest, daemon.socket) as agent:
            assert connects(daemon, agent)
        assert json.loads(file.read_text())["used"][0]["sums"][2] == 1
        assert file.stat().st_mode & 0o777 == 0o600
        with Daemon(network, "-config", str(path)) as daemon, Agent(network.guest, daemon.socket) as agent:
            assert [connects(daemon, agent), connects(daemon, agent)] == [True, False]
    finally:
        Path(file).unlink(missing_ok=True)


def test_what_was_used_outlives_a_restart_to_a_new_version(network: Network, outside: Servers) -> None:
    with Restartable(network) as daemon, Agent(network.guest, daemon.socket) as agent:
        put(daemon, {"connections": 2})
        assert connects(daemon, agent)
        daemon.restart()
        assert [each["connections"] for each in used(daemon).values()] == [1]
        assert [connects(daemon, agent), connects(daemon, agent)] == [True, False]
