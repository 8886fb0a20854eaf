"""The egress policy at run time: what open connections and new ones see of PUT, PATCH and SIGHUP."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.holder import Holder
from tests.support.netns import INTERNET_ADDR, SECOND_ADDR, Network
from tests.support.servers import ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

NO_WAY = {"EHOSTUNREACH", "ECONNREFUSED", "EACCES"}
CLOSED = {"rules": [{"action": "deny", "networks": [INTERNET_ADDR]}]}
OTHER_MAC = "02:00:00:00:00:02"


@pytest.fixture(params=["separate", "auto"])
def daemon(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Daemon]:
    with Daemon(network, "-placement", request.param) as made:
        yield made


def put(daemon: Daemon, policy: object, query: str = "") -> dict[str, Any]:
    status, text = daemon.api(f"/policy{query}", policy, "PUT")
    assert status == 200, text
    return dict(json.loads(text))


def explain(daemon: Daemon, **ask: object) -> tuple[bool, str]:
    status, text = daemon.api("/policy/explain", ask)
    assert status == 200, text
    answer = json.loads(text)
    return answer["allowed"], answer["rule"]


def test_connections_that_are_no_longer_allowed_are_cut_or_kept(daemon: Daemon, agent: Agent) -> None:
    with (
        Holder(agent.guest, "tcp", INTERNET_ADDR, ECHO) as forbidden,
        Holder(agent.guest, "udp", INTERNET_ADDR, UDP_ECHO) as forbidden_udp,
        Holder(agent.guest, "tcp", SECOND_ADDR, ECHO) as allowed,
    ):
        assert [each.echo() for each in (forbidden, forbidden_udp, allowed)] == ["word"] * 3
        assert put(daemon, CLOSED, "?connections=keep") == {"ended": 0}
        assert [each.echo() for each in (forbidden, forbidden_udp, allowed)] == ["word"] * 3
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY
        assert put(daemon, CLOSED) == {"ended": 2}
        assert forbidden.echo() in ("ConnectionResetError", "BrokenPipeError")
        assert forbidden_udp.echo() != "word"
        assert allowed.echo() == "word"
    assert daemon.api("/policy", {"rules": None}, "PATCH")[0] == 200
    assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
    (line, *_) = daemon.events("egress policy changed")
    assert (line["rules"], line["ended"]) == (1, 0)


def test_a_wrong_policy_changes_nothing(daemon: Daemon, agent: Agent) -> None:
    put(daemon, CLOSED)
    before = daemon.api("/policy")
    for policy, key in (
        ({"default": "no"}, "default"),
        ({"rules": [{"action": "deny", "to": []}]}, "rules[0].to"),
    ):
        status, text = daemon.api("/policy", policy, "PUT")
        assert (status, json.loads(text)["key"]) == (400, key)
    assert daemon.api("/policy") == before
    assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY


def test_rules_for_one_guest_by_its_mac_and_by_its_link(
    daemon: Daemon, agent: Agent, network: Network
) -> None:
    with Agent(network.guests[1], daemon.socket, mac=OTHER_MAC) as other:
        links = json.loads(daemon.api("/cam")[1])
        for word in (OTHER_MAC, f"link:{links[OTHER_MAC]}"):
            put(daemon, {"default": "deny", "rules": [{"action": "allow", "guests": [word]}]})
            assert other.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
            assert other.run("udp", INTERNET_ADDR, UDP_ECHO, 100, 2)["received"] == 2
            assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY
            assert explain(daemon, guest=OTHER_MAC, address=INTERNET_ADDR, port=ECHO)[0]
            denied = (False, "egress-policy.default")
            assert explain(daemon, guest=GUEST_ADDR, address=INTERNET_ADDR, port=ECHO) == denied


def test_explain_and_the_connection_agree(daemon: Daemon, agent: Agent) -> None:
    rules = [
        {"action": "allow", "names": ["*.example.test"], "ports": [ECHO]},
        {"action": "deny", "networks": [SECOND_ADDR]},
    ]
    put(daemon, {"default": "deny", "rules": rules})
    ask = {"guest": GUEST_ADDR, "address": INTERNET_ADDR, "port": ECHO}
    assert explain(daemon, **ask) == (False, "egress-policy.default")
    assert explain(daemon, **ask, name="www.example.test") == (True, "egress-policy.rules[0]")
    assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY
    agent.run("resolve", GATEWAY_ADDR, "www.example.test", "A", "udp")
    assert json.loads(daemon.api("/policy/explain", ask)[1])["depends"], "on the name that it states"
    assert explain(daemon, **ask, name="www.example.test") == (True, "egress-policy.rules[0]")
    assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
    assert explain(daemon, **{**ask, "address": SECOND_ADDR}) == (False, "egress-policy.rules[1]")


def test_a_guest_cannot_reach_the_policy(daemon: Daemon, agent: Agent) -> None:
    for method in ("GET", "PUT", "PATCH", "POST"):
        for path in ("/policy", "/policy/explain", "//policy", "/services/../policy"):
            argv = (
                "curl",
                "-sS",
                "--path-as-is",
                "-L",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-X",
                method,
            )
            made = agent.guest.run(*argv, "-d", json.dumps(CLOSED), f"http://{GATEWAY_ADDR}{path}")
            assert made.stdout == "404"
    assert json.loads(daemon.api("/policy")[1]) == {"default": "allow", "rules": []}
