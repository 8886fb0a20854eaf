"""Connections of a guest through real proxies: mitmproxy with an add-on, tinyproxy and microsocks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import hellos
from tests.support.agent import GATEWAY_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Namespace, Network, wait_for
from tests.support.servers import DATA, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
ADD_ON = ROOT / "contrib" / "mitmproxy" / "insert_key.py"
NAME, OTHER = "www.example.test", "shared.other.test"
PORT = 3128
KEY, PLACEHOLDER = "sk-the-true-key", "KEY-OF-API"
USER, PASSWORD = "me", "s3cret-word"
REFUSED = {"ECONNREFUSED", "EHOSTUNREACH", "ECONNRESET"}
_WEB = """
import http.server, ssl, sys
cert, key, seen = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(seen, "a") as file:
            file.write(f"{self.headers['Host']} {self.headers['Authorization']}\\n")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"well done")
server = http.server.ThreadingHTTPServer(("", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@contextmanager
def running(namespace: Namespace, port: int, *words: str) -> Iterator[None]:
    """A program that listens at this port."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = namespace.popen(
        list(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables
    )
    try:
        listens = ("ss", "-Htln", "sport", "=", str(port))
        wait_for(lambda: namespace.run(*listens).stdout, f"{words[0]} at port {port}", seconds=60)
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def guest_of(network: Network, policy: str, *flags: str) -> Iterator[tuple[Daemon, Agent]]:
    """A daemon with this policy, and its guest, which has asked for the names."""
    path = network.directory / "proxies.yaml"
    path.write_text(policy)
    with (
        Daemon(network, "-config", str(path), *flags) as daemon,
        Agent(network.guest, daemon.socket) as agent,
    ):
        for name in (NAME, OTHER):
            agent.run("resolve", GATEWAY_ADDR, name, "A", "udp")
        yield daemon, agent


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- mitmproxy --------------------------------------------------------------------------------


def certificate(directory: Path) -> tuple[str, str]:
    """A certificate of both names, and its key."""
    key, cert = directory / "key.pem", directory / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    words += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={NAME}"]
    words += ["-addext", f"subjectAltName=DNS:{NAME},DNS:{OTHER}"]
    subprocess.run(words, check=True, capture_output=True)
    return str(cert), str(key)


@pytest.mark.skipif(shutil.which("mitmdump") is None, reason="needs mitmproxy (.ci/packages)")
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_mitmproxy_inserts_a_key_that_the_guest_never_has(
    network: Network, outside: Servers, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    seen, keys, settings = tmp_path / "seen", tmp_path / "keys.json", tmp_path / "mitmproxy"
    keys.write_text(json.dumps({NAME: {"placeholder": PLACEHOLDER, "key": KEY}}))
    policy = f"""
egress-policy:
  preset: locked
  rules: [{{action: proxy, via: "http://127.0.0.1:{PORT}", names: [{NAME}, {OTHER}], ports: [443]}}]
"""
    mitmdump = (
        *("mitmdump", "-q", "--listen-host", "127.0.0.1", "--listen-port", str(PORT)),
        *("--set", f"confdir={settings}", "--set", f"ssl_verify_upstream_trusted_ca={cert}"),
        *("-s", str(ADD_ON), "--set", f"keys_file={keys}"),
    )
    web = (sys.executable, "-c", _WEB, cert, key, str(seen))
    with (
        running(network.internet, 443, *web),
        running(network.host, PORT, *mitmdump),
        guest_of(network, policy) as (daemon, agent),
    ):
        authority = str(settings / "mitmproxy-ca-cert.pem")

        def fetch(name: str, *words: str) -> str:
            field = f"Authorization: Bearer {PLACEHOLDER}"
            command = ("curl", "-sS", "-m", "20", "--cacert", authority, "-H", field, *words)
            return agent.guest.run(*command, f"https://{name}/", check=False).stdout

        assert fetch(NAME) == "well done"
        assert fetch(OTHER) == "well done"
        assert fetch(OTHER, "-H", f"Host: {NAME}") == "well done"
        assert seen.read_text().splitlines() == [
            f"{NAME} Bearer {KEY}",
            f"{OTHER} Bearer {PLACEHOLDER}",
            f"{NAME} Bearer {PLACEHOLDER}",
        ], "a Host field alone gets no key"
        assert fetch(NAME, "--connect-to", f"{NAME}:443:192.168.127.254:{PORT}") == "", "not the proxy itself"
        assert KEY not in daemon.log_text()


# --- other proxies ----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("microsocks") is None, reason="needs microsocks (.ci/packages)")
def test_microsocks_carries_all_tcp_and_the_password_is_nowhere(network: Network, outside: Servers) -> None:
    policy = f"""
egress-policy: {{rules: [{{action: proxy, via: "socks5://{USER}:{PASSWORD}@127.0.0.1:{PORT}"}}]}}
"""
    record = network.directory / "proxies.log"
    socks = ("microsocks", "-i", "127.0.0.1", "-p", str(PORT), "-u", USER, "-P", PASSWORD)
    with guest_of(network, policy, "-flow-log", str(record)) as (daemon, agent):
        with running(network.host, PORT, *socks):
            assert agent.run("say", INTERNET_ADDR, ECHO, b"word".hex())["received"] == 4
            sent = agent.run("say", INTERNET_ADDR, ECHO, (b"word" * 10_000).hex())
            assert sent == {"received": 40_000, "errno": ""}
            assert agent.run("datagrams", INTERNET_ADDR, UDP_ECHO, "00")["received"] == 0
            answer = ask(daemon, address=INTERNET_ADDR, port=DATA)
            assert (answer["allowed"], answer["via"]) == (True, f"socks5://127.0.0.1:{PORT}")
            answer = ask(daemon, address=INTERNET_ADDR, port=443, protocol="udp")
            assert (answer["allowed"], answer["via"]) == (False, "")
            assert "TCP alone" in answer["why"]
            assert agent.run("connect", INTERNET_ADDR, 9)["errno"] in REFUSED
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == "ECONNREFUSED", "the proxy is gone"
        failed = [line for line in lines(record) if line["kind"] == "proxy-failed"]
        assert [line["reason"] for line in failed] == [
            "the destination has refused the proxy's connection",
            "no connection to the proxy: connection refused",
        ]
        status, body = daemon.api("/policy")
        assert status == 200
        text = body.decode()
        assert f"socks5://{USER}:***@" in text
        assert daemon.api("/policy", json.loads(text), "PUT")[0] == 200, "*** stands for the password"
        with running(network.host, PORT, *socks):
            assert agent.run("say", INTERNET_ADDR, ECHO, b"word".hex())["received"] == 4
        for word in (daemon.log_text(), record.read_text(), text):
            assert PASSWORD not in word
    wrong = {"rules": [{"action": "proxy", "via": f"http://{USER}:{PASSWORD}@a..b:1"}]}
    with Daemon(network) as daemon:
        status, body = daemon.api("/policy", wrong, "PUT")
        assert (status, json.loads(body)["key"]) == (400, "rules[0].via")
        assert PASSWORD not in body.decode() + daemon.log_text()


@pytest.mark.skipif(shutil.which("tinyproxy") is None, reason="needs tinyproxy (.ci/packages)")
def test_tinyproxy_is_told_the_name_and_its_refusal_has_words(
    network: Network, outside: Servers, tmp_path: Path
) -> None:
    settings, rules, log = tmp_path / "tinyproxy.conf", tmp_path / "filter", tmp_path / "tinyproxy.log"
    rules.write_text(f"^{NAME}$\n".replace(".", r"\."))
    settings.write_text(
        f'Port {PORT}\nListen 127.0.0.1\nLogFile "{log}"\nLogLevel Connect\nConnectPort {ECHO}\n'
        f'Filter "{rules}"\nFilterDefaultDeny Yes\nFilterExtended On\nTimeout 60\n'
    )
    policy = f"""
egress-policy:
  default: deny
  rules: [{{action: proxy, via: "http://127.0.0.1:{PORT}", stated-ports: [{ECHO}]}}]
"""
    record = network.directory / "tiny.log"
    with (
        running(network.host, PORT, "tinyproxy", "-d", "-c", str(settings)),
        guest_of(network, policy, "-flow-log", str(record)) as (daemon, agent),
    ):
        good, bad = hellos.hello(NAME), hellos.hello(OTHER)
        assert agent.run("say", INTERNET_ADDR, ECHO, good.hex())["received"] == len(good)
        outcome = agent.run("say", INTERNET_ADDR, ECHO, bad.hex())
        assert outcome["received"] == 0
        assert outcome["errno"] in ("ECONNRESET", "EPIPE")
        wait_for(lambda: "proxy-failed" in record.read_text(), "the record")
        (failed,) = [line for line in lines(record) if line["kind"] == "proxy-failed"]
        assert failed["name"] == OTHER
        assert failed["reason"].startswith("the proxy answered 403")
        wait_for(lambda: any(line.get("reason") == "proxy" for line in lines(record)), "the flow's end")
        assert daemon.events("proxy has not opened a tunnel")


def test_an_alias_of_a_denied_name_is_denied(network: Network, outside: Servers) -> None:
    policy = f"""
egress-policy: {{rules: [{{action: deny, names: [{NAME}]}}]}}
"""
    with guest_of(network, policy) as (_, agent):
        # The name itself is not answered. Its alias is, and so is the address that the alias gives.
        assert agent.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")["answers"] == []
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
        agent.run("resolve", GATEWAY_ADDR, "alias.example.test", "A", "udp")
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] in REFUSED | {"EACCES"}


def ask(daemon: Daemon, **words: object) -> dict[str, Any]:
    status, text = daemon.api("/policy/explain", {"guest": "192.168.127.2", **words})
    assert status == 200, text
    return dict(json.loads(text))
