"""SIGHUP: a running daemon reads its file again, and guests see what has changed and nothing else."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.holder import Holder
from tests.support.netns import INTERNET_ADDR, SECOND_ADDR, Network, wait_for
from tests.support.servers import ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

RELOADED = "configuration reloaded"
REFUSED = "configuration not reloaded: nothing has changed"
OPEN = "egress-policy: {default: allow}"
CLOSED = f"egress-policy: {{rules: [{{action: deny, networks: [{INTERNET_ADDR}]}}]}}"
NO_WAY = {"EHOSTUNREACH", "ECONNREFUSED", "EACCES"}


class Reloadable:
    """A daemon and its file."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.daemon = daemon
        self._path = path

    def reload(self, *lines: str, outcome: str = RELOADED) -> dict[str, Any]:
        """Write the file, send SIGHUP, and return the line of the log about the outcome."""
        before = len(self.daemon.events(outcome))
        self._path.write_text("\n".join(lines))
        self.daemon.process.send_signal(signal.SIGHUP)
        found = wait_for(lambda: self.daemon.events(outcome)[before:], outcome, 30)
        return dict(found[0])

    def zones(self) -> list[str]:
        return [zone["Name"] for zone in json.loads(self.daemon.api("/services/dns/all")[1]) or ()]

    def forwards(self) -> set[str]:
        return {each["local"] for each in json.loads(self.daemon.api("/services/forwarder/all")[1])}


@pytest.fixture(params=["separate", "auto"])
def setup(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Reloadable]:
    path = network.directory / "config.yaml"
    path.write_text(OPEN)
    with Daemon(network, "-config", str(path), "-placement", request.param) as daemon:
        yield Reloadable(daemon, path)


@pytest.fixture
def guest(setup: Reloadable) -> Iterator[Agent]:
    with Agent(setup.daemon.network.guest, setup.daemon.socket) as agent:
        yield agent


def test_a_new_policy_ends_the_flows_that_it_forbids(setup: Reloadable, guest: Agent) -> None:
    with (
        Holder(guest.guest, "tcp", INTERNET_ADDR, ECHO) as cut,
        Holder(guest.guest, "udp", INTERNET_ADDR, UDP_ECHO) as cut_udp,
        Holder(guest.guest, "tcp", SECOND_ADDR, ECHO) as kept,
    ):
        assert [each.echo() for each in (cut, cut_udp, kept)] == ["word"] * 3
        assert setup.reload(CLOSED)["changed"] == "egress-policy"
        assert cut.echo() in ("ConnectionResetError", "BrokenPipeError")
        assert cut_udp.echo() in ("OSError", "PermissionError", "TimeoutError", "ConnectionRefusedError")
        assert kept.echo() == "word"
        assert guest.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY
        assert setup.daemon.gauge("egress_flow_closed_policy")["egress0"] == 2
        (line,) = setup.daemon.events("flows ended by the new egress policy")
        assert line["count"] == 2
        setup.reload(OPEN)
        assert guest.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
        assert kept.echo() == "word"


def test_a_wrong_file_changes_nothing_and_names_key_and_line(setup: Reloadable, guest: Agent) -> None:
    setup.daemon.expect_errors = True
    setup.reload(CLOSED)
    for lines, words in (
        ((OPEN, "limits:", "  max-tcp-flows: many"), ["line 3", "limits.max-tcp-flows", '"many"']),
        (("egres-policy: {default: allow}",), ["line 1", "egres-policy", "did you mean egress-policy"]),
        ((OPEN, "stack: {subnet: 10.0.0.0/33}"), ["10.0.0.0/33"]),
        (
            (OPEN, "stack:", "  dns: [{name: a, records: [{ip: x}]}]"),
            ["line 3", "stack.dns[0].records[0].ip"],
        ),
        ((OPEN, f"stack: {{dns: [{{name: {'a' * 300}}}]}}"), ["stack.dns[0]: zone name is longer"]),
        ((OPEN, 'stack: {forwards: {"203.0.113.9:80": "192.168.127.2:80"}}'), ["203.0.113.9:80"]),
    ):
        line = setup.reload(*lines, outcome=REFUSED)
        assert all(word in line["error"] for word in words), line
    assert setup.daemon.events(RELOADED)[1:] == []
    assert guest.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY
    assert setup.zones() == []
    assert setup.forwards() == set()


def test_forwards_of_the_file_open_and_close_and_those_of_the_api_stay(
    setup: Reloadable, guest: Agent
) -> None:
    host = setup.daemon.network.host
    servers = Servers(guest.guest, setup.daemon.network.directory)
    tcp, udp = f"{GUEST_ADDR}:{ECHO}", f"{GUEST_ADDR}:{UDP_ECHO}"
    setup.daemon.expose("127.0.0.1:9003", tcp)
    setup.reload(OPEN, f'stack: {{forwards: {{"127.0.0.1:9001": "{tcp}", "udp:127.0.0.1:9002": "{udp}"}}}}')
    with (
        Holder(host, "tcp", "127.0.0.1", 9001) as first,
        Holder(host, "udp", "127.0.0.1", 9002) as second,
        Holder(host, "tcp", "127.0.0.1", 9003) as third,
    ):
        assert [each.echo() for each in (first, second, third)] == ["word"] * 3
        # 9001 goes, 9002 leads to a port where nobody is, 9004 comes.
        nobody = f"{GUEST_ADDR}:9"
        setup.reload(
            OPEN, f'stack: {{forwards: {{"127.0.0.1:9004": "{tcp}", "udp:127.0.0.1:9002": "{nobody}"}}}}'
        )
        assert setup.forwards() == {"127.0.0.1:9002", "127.0.0.1:9003", "127.0.0.1:9004"}
        assert first.echo() == "word", "connections of a closed forward go on"
        assert second.echo() != "word"
        with Holder(host, "tcp", "127.0.0.1", 9004) as fourth:
            assert fourth.echo() == "word"
        assert third.echo() == "word"
    setup.reload(OPEN)
    assert setup.forwards() == {"127.0.0.1:9003"}
    servers.close()


def test_a_forward_whose_address_is_in_use_leaves_all_forwards_as_they_were(setup: Reloadable) -> None:
    setup.daemon.expect_errors = True
    guest = f"{GUEST_ADDR}:80"
    setup.daemon.expose("127.0.0.1:9003", guest)
    setup.reload(
        OPEN, f'stack: {{forwards: {{"127.0.0.1:9001": "{guest}", "udp:127.0.0.1:9002": "{guest}"}}}}'
    )
    before = setup.daemon.api("/services/forwarder/all")
    for taken, why in (
        ("127.0.0.1:9003", "proxy already running for tcp on 127.0.0.1:9003"),
        ("0.0.0.0:9003", "listen tcp 0.0.0.0:9003: bind: address already in use"),
    ):
        line = setup.reload(
            f'stack: {{forwards: {{"127.0.0.1:9005": "{guest}", "{taken}": "{GUEST_ADDR}:81"}}}}',
            outcome=REFUSED,
        )
        assert line["error"] == f"stack.forwards: {taken}: {why}"
        assert setup.daemon.api("/services/forwarder/all") == before


def test_zones_of_the_file_change_and_those_of_the_api_stay(setup: Reloadable, guest: Agent) -> None:
    def answers(name: str) -> object:
        return guest.run("resolve", GATEWAY_ADDR, name, "A", "udp")["answers"]

    zone = {"Name": "api.test.", "Records": [{"Name": "x", "IP": "192.0.2.9"}]}
    assert setup.daemon.api("/services/dns/add", zone)[0] == 200
    one = "{name: one.test., records: [{name: x, ip: 192.0.2.1}]}"
    setup.reload(OPEN, f"stack: {{dns: [{one}]}}")
    assert setup.zones() == ["one.test.", "api.test."]
    assert answers("x.one.test") == ["192.0.2.1"]
    setup.reload(OPEN, f"stack: {{dns: [{one.replace('192.0.2.1', '192.0.2.2')}]}}")
    assert answers("x.one.test") == ["192.0.2.2"]
    setup.reload(OPEN)
    assert setup.zones() == ["api.test."]
    assert answers("x.api.test") == ["192.0.2.9"]


def test_a_name_rule_that_comes_later_counts_from_the_next_answer_on(setup: Reloadable, guest: Agent) -> None:
    rule = "{action: allow, names: ['*.example.test']}"
    other = "{action: allow, names: [other.test]}"
    setup.reload(f"egress-policy: {{default: deny, rules: [{rule}]}}")
    assert guest.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY
    guest.run("resolve", GATEWAY_ADDR, "www.example.test", "A", "udp")
    assert guest.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
    # The same name in another place of other rules: what is known of the address stays true.
    setup.reload(f"egress-policy: {{default: deny, rules: [{other}, {rule}]}}")
    assert guest.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
    setup.reload(f"egress-policy: {{default: deny, rules: [{other}]}}")
    assert guest.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY


def test_keys_that_cannot_change_are_named_in_one_warning(setup: Reloadable) -> None:
    line = setup.reload(
        OPEN, "tcp-workers: 2", "log-level: debug", "stack: {mtu: 1400, hostIP: 192.168.127.9}"
    )
    assert line["changed"] == "log-level"
    (warning,) = setup.daemon.events("keys that cannot change while the program runs keep their values")
    assert set(warning["keys"].split(", ")) >= {"tcp-workers", "stack.mtu", "stack.hostIP"}
    setup.reload(OPEN)
