"""action: ask. A connection waits until a client of the API decides, and guests see the outcome."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.client.answers import Approval
from pipeline.client.api import RefusedError
from pipeline.client.network import Network as Client
from tests.e2e.test_healing import kill
from tests.support.agent import GATEWAY_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, SECOND_ADDR, Network, wait_for
from tests.support.servers import DATA, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

NO_WAY = {"EHOSTUNREACH", "ECONNREFUSED", "EACCES"}
NAME = "www.example.test"
THREE = f"""
import select, socket
socks = [socket.socket() for _ in range(3)]
for sock in socks:
    sock.setblocking(False)
    sock.connect_ex(("{SECOND_ADDR}", {ECHO}))
count = 0
for sock in socks:
    select.select([], [sock], [], 30)
    count += sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and sock.getpeername()[1] == {ECHO}
print(count)
"""


@pytest.fixture(params=["separate", "auto"])
def daemon(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Daemon]:
    with Daemon(network, "-placement", request.param) as made:
        yield made


@pytest.fixture
def client(daemon: Daemon) -> Client:
    made = Client(f"unix://{daemon.socket}")
    made.set_policy({"rules": [{"action": "ask", "ports": [f"{ECHO}-{UDP_ECHO}"]}], "ask-seconds": 20})
    return made


def connect(agent: Agent, address: str, port: int) -> Callable[[], str]:
    """Begin to connect. Returns what waits for the outcome."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(agent.run, "connect", address, port)
    pool.shutdown(wait=False)
    return lambda: str(future.result(40)["errno"])


def one(client: Client) -> Approval:
    (found,) = wait_for(client.waiting, "a question", 10)
    return found


def test_a_connection_waits_for_the_answer(client: Client, agent: Agent, daemon: Daemon) -> None:
    with client.approvals() as approvals:
        for allow in (True, False):
            outcome = connect(agent, INTERNET_ADDR, ECHO)
            approval = next(approvals)
            assert (approval.address, approval.port, approval.protocol) == (INTERNET_ADDR, ECHO, "tcp")
            assert (approval.guest_address, approval.name) == ("192.168.127.2", "")
            client.decide(approval, allow)
            assert (outcome() == "") == allow
    assert daemon.gauge("egress_flow_refused_policy")["egress0"] == 1
    assert agent.run("connect", INTERNET_ADDR, DATA)["errno"] == "", "no rule asks about this port"
    with pytest.raises(RefusedError) as caught:
        client.decide(approval, True)
    assert caught.value.status == 404


def test_nobody_answers_and_the_answer_is_no(client: Client, agent: Agent) -> None:
    client.patch_policy({"ask-seconds": 1})
    assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY
    assert client.waiting() == []


def test_an_answer_for_the_session_holds_for_this_guest_until_it_leaves(
    client: Client, agent: Agent, daemon: Daemon, network: Network
) -> None:
    def ask(guest: Agent) -> tuple[Callable[[], str], Approval]:
        guest.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
        outcome = connect(guest, INTERNET_ADDR, ECHO)
        return outcome, one(client)

    with Agent(network.guests[1], daemon.socket, mac="02:00:00:00:00:02") as other:
        outcome, approval = ask(other)
        assert (approval.name, approval.guest_mac) == (NAME, "02:00:00:00:00:02")
        client.decide(approval, True, "session")
        assert outcome() == ""
        rule = client.policy()["rules"][0]
        assert (rule["action"], rule["names"], rule["ports"]) == ("allow", [NAME], [str(ECHO)])
        other.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
        assert other.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
        refused, approval = ask(agent)
        client.decide(approval, False, "always")
        assert refused() in NO_WAY
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in NO_WAY
    wait_for(lambda: len(client.policy()["rules"]) == 2, "the rule of the session is gone", 10)


def test_the_policy_of_the_api_outlives_its_workers_and_the_rule_of_a_session_does_not_outlive_its_link(
    client: Client, agent: Agent, daemon: Daemon
) -> None:
    daemon.expect_errors = True
    outcome = connect(agent, INTERNET_ADDR, ECHO)
    client.decide(one(client), True, "session")
    assert outcome() == ""
    assert len(client.policy()["rules"]) == 2
    for name in list(daemon.processes()):
        kill(daemon, name)
    # A link with offload ends with ingress. Its agent connects again.
    wait_for(lambda: len(client.policy()["rules"]) == 1, "the rule of the session is gone", 10)
    agent.wait_for_address()
    outcome = connect(agent, INTERNET_ADDR, ECHO)
    approval = one(client)
    assert approval.id != "egress0-1", "the first question had that name"
    client.decide(approval, False)
    assert outcome() in NO_WAY


def test_datagrams_pass_after_the_answer(client: Client, agent: Agent) -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(agent.run, "udp", INTERNET_ADDR, UDP_ECHO, 100, 6)
        approval = one(client)
        assert approval.protocol == "udp"
        client.decide(approval, True)
        assert future.result(40)["received"] >= 3


def test_many_connections_to_one_destination_are_one_question(client: Client, agent: Agent) -> None:
    process = agent.guest.popen([sys.executable, "-c", THREE], stdout=subprocess.PIPE, text=True)
    approval = one(client)
    wait_for(lambda: agent.guest.run("ss", "-tn").stdout.count("SYN-SENT") == 3, "three that wait", 10)
    client.decide(approval, True)
    assert process.communicate(timeout=40)[0] == "3\n"


def test_a_client_that_gives_up_leaves_nothing(client: Client, agent: Agent) -> None:
    argv = [sys.executable, "-c", f"import socket; socket.create_connection(('{INTERNET_ADDR}', {ECHO}))"]
    process = agent.guest.popen(argv, stderr=subprocess.DEVNULL)
    approval = one(client)
    process.kill()
    process.wait()
    client.decide(approval, True)
    assert client.waiting() == []
    assert agent.run("connect", SECOND_ADDR, DATA)["errno"] == ""
