"""Programs under a policy with one allowed name: git over https and ssh, Python, Chromium with HTTP/3."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import browser
from tests.support import sshd as openssh
from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, SECOND_ADDR, Network, wait_for
from tests.support.servers import Servers
from tests.support.sshd import Sshd

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(openssh.missing()), reason=openssh.missing()),
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]

NAME, OTHER = "www.example.test", "shared.other.test"
POLICY = f"""
egress-policy:
  preset: locked
  quic: read
  rules: [{{action: allow, names: [{NAME}], ports: [22, 443]}}]
"""
_WEB = """
import functools, http.server, ssl, sys
directory, cert, key = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
server = http.server.ThreadingHTTPServer(("", 443), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
_FETCH = """
import ssl, sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=10, context=ssl._create_unverified_context()).status)
"""


def git(*words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *identity, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(network: Network) -> Path:
    """A bare repository with one commit, as a web server without git serves it too."""
    work, bare = network.directory / "work", network.directory / "web" / "repo.git"
    git("init", "-q", str(work))
    (work / "file").write_text("from outside\n")
    git("-C", str(work), "add", "file")
    git("-C", str(work), "commit", "-q", "-m", "one")
    git("clone", "-q", "--bare", str(work), str(bare))
    git("-C", str(bare), "update-server-info")
    return bare


@pytest.fixture(scope="module")
def pair(network: Network) -> tuple[str, str]:
    """A certificate and its key."""
    key, cert = network.directory / "web-key.pem", network.directory / "web-cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    words += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={NAME}"]
    words += ["-addext", f"subjectAltName=DNS:{NAME},DNS:{OTHER}"]
    subprocess.run(words, check=True, capture_output=True)
    return str(cert), str(key)


@pytest.fixture(scope="module")
def web(network: Network, repository: Path, pair: tuple[str, str]) -> Iterator[None]:
    """Serves the repository at port 443, with TLS."""
    server = network.internet.popen(
        [sys.executable, "-c", _WEB, str(repository.parent), *pair],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: network.internet.run("ss", "-Htln", "sport", "=", "443").stdout, "the web server")
    yield
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def http3(network: Network, pair: tuple[str, str]) -> Iterator[list[str]]:
    """Serves HTTP/3. Returns options of a browser that uses nothing else, and accepts the certificate."""
    server = network.internet.popen(
        [sys.executable, "-m", "tests.support.http3", *pair], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    script = f"openssl x509 -in {pair[0]} -pubkey -noout | openssl pkey -pubin -outform der"
    key = subprocess.run(["sh", "-c", script], check=True, capture_output=True).stdout
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    forced = ",".join(f"{name}:443" for name in (NAME, OTHER))
    yield [f"--origin-to-force-quic-on={forced}", f"--ignore-certificate-errors-spki-list={pin}"]
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def ssh(network: Network) -> Iterator[Sshd]:
    directory = network.directory / "ssh"
    directory.mkdir()
    made = Sshd(network.internet, directory)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def agent(network: Network, outside: Servers) -> Iterator[Agent]:
    path = network.directory / "programs.yaml"
    path.write_text(POLICY)
    with Daemon(network, "-config", str(path)) as daemon, Agent(network.guest, daemon.socket) as made:
        yield made


def clones(agent: Agent, url: str, to: Path, *options: str, ssh: str = "") -> bool:
    """Whether git in the guest can clone this repository, with all that is in it."""
    variables = [f"GIT_SSH_COMMAND={ssh}", "GIT_TERMINAL_PROMPT=0", f"PATH={os.environ['PATH']}"]
    words = ("-c", "http.sslVerify=false", *options, "clone", "-q", url, str(to))
    outcome = agent.guest.run("timeout", "20", "env", *variables, "git", *words, check=False)
    return outcome.returncode == 0 and (to / "file").read_text() == "from outside\n"


def test_git_over_https(agent: Agent, web: None, tmp_path: Path) -> None:
    assert clones(agent, f"https://{NAME}/repo.git", tmp_path / "one")
    assert not clones(agent, f"https://{INTERNET_ADDR}/repo.git", tmp_path / "two")
    resolve = ("-c", f"http.curloptResolve={OTHER}:443:{INTERNET_ADDR}")
    assert not clones(agent, f"https://{OTHER}/repo.git", tmp_path / "three", *resolve)


def test_git_over_ssh(agent: Agent, ssh: Sshd, repository: Path, tmp_path: Path) -> None:
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5"
    command = f"ssh -i {ssh.key} {options}"
    assert clones(agent, f"ssh://{ssh.user}@{NAME}{repository}", tmp_path / "one", ssh=command)
    for host in (SECOND_ADDR, OTHER):
        assert not clones(agent, f"ssh://{ssh.user}@{host}{repository}", tmp_path / "two", ssh=command)


def test_python(agent: Agent, web: None) -> None:
    def fetch(url: str) -> str:
        return agent.guest.run(sys.executable, "-c", _FETCH, url, check=False).stdout.strip()

    assert fetch(f"https://{NAME}/repo.git/HEAD") == "200"
    assert fetch(f"https://{INTERNET_ADDR}/repo.git/HEAD") == ""
    assert fetch(f"https://{OTHER}/repo.git/HEAD") == ""


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_chromium_with_http3(agent: Agent, http3: list[str], tmp_path: Path) -> None:
    def title(name: str) -> str:
        words = ["--headless", *browser.SWITCHES, f"--user-data-dir={tmp_path / name}", *http3]
        words += [f"--host-resolver-rules=MAP {OTHER} {INTERNET_ADDR}", "--timeout=15000", "--dump-dom"]
        command = ("timeout", "60", browser.executable(), *words, f"https://{name}/")
        return agent.guest.run(*command, check=False, timeout=90).stdout

    assert "a page over HTTP/3" in title(NAME)
    assert "a page over HTTP/3" not in title(OTHER)
