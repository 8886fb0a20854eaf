"""examples/sandbox: a program reaches the names that are allowed, and nothing else."""

import sys
from collections.abc import Iterator
from subprocess import PIPE

import pytest

from tests.support import examples
from tests.support.examples import EXAMPLES
from tests.support.netns import INTERNET_ADDR, SECOND_ADDR, Network
from tests.support.servers import DATA, ECHO, Servers

pytestmark = pytest.mark.e2e

REACH = """
import socket
def reach(host, port):
    try:
        socket.create_connection((host, port), 5).close()
        return "reached"
    except OSError as error:
        return "refused"
"""
PROGRAM = f"""{REACH}
print(reach("{INTERNET_ADDR}", {ECHO}), reach("www.example.test", {ECHO}), reach("www.example.test", {DATA}))
print(reach("{SECOND_ADDR}", {ECHO}), reach("192.168.127.1", 80))
raise SystemExit(7)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(guest_count=1) as made:
        yield made


def test_a_program_reaches_what_is_allowed_and_nothing_else(network: Network) -> None:
    servers = Servers(network.internet, network.directory)
    env = examples.programs(network.directory / "bin")
    argv = [sys.executable, "-P", str(EXAMPLES / "sandbox/sandbox.py"), "-allow", f"example.test:{ECHO}"]
    done = network.host.run(*argv, "--", sys.executable, "-c", PROGRAM, check=False, env=env)
    assert done.stdout.splitlines() == ["refused reached refused", "refused refused"], done.stderr
    assert done.returncode == 7, done.stderr
    assert f"sandbox: refused: {SECOND_ADDR} port {ECHO}" in done.stderr
    assert f"sandbox: refused: www.example.test port {DATA}" in done.stderr
    servers.close()


def test_a_person_decides_about_what_no_rule_allows(network: Network) -> None:
    servers = Servers(network.internet, network.directory)
    env = examples.programs(network.directory / "bin")
    argv = [sys.executable, "-P", str(EXAMPLES / "sandbox/sandbox.py"), "-ask", "--", sys.executable, "-c"]
    program = (
        f"{REACH}\nprint(reach('www.example.test', {ECHO}), reach('{SECOND_ADDR}', {ECHO}))"
        f"\nprint(reach('www.example.test', {ECHO}))"
    )
    sandbox = network.host.popen([*argv, program], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, env=env)
    out, err = sandbox.communicate("y\nn\n", timeout=60)
    assert out.splitlines() == ["reached refused", "reached"], err
    assert f"allow www.example.test port {ECHO}?" in err
    assert f"allow {SECOND_ADDR} port {ECHO}?" in err
    servers.close()
