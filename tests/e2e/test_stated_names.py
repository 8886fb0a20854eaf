"""Attacks on an egress policy with names, by a guest with a real kernel. docs/policy.md has the table.

The server sends back what it gets. So a guest that receives nothing has sent nothing to it.
"""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines.stated.first_bytes import MAX_BYTES
from tests.support import hellos
from tests.support.agent import GATEWAY_ADDR, HOST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, METADATA_ADDR, SECOND_ADDR, Network, wait_for
from tests.support.servers import DATA, ECHO, HTTP, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

SSH = 7022
"""A port whose protocol states no name."""
TLS = 7443
NAME = "www.example.test"
POLICY = f"""
stack:
  dns: [{{name: containers.internal., records: [{{name: host, ip: {HOST_ADDR}}}]}}]
egress-policy:
  preset: locked
  quic: read
  rules:
    - action: allow
      names: ["*.example.test"]
      ports: [80, 443, {ECHO}, {UDP_ECHO}, {TLS}]
      stated-ports: [80, 443, {ECHO}, {UDP_ECHO}, {TLS}]
    - {{action: allow, names: ["*.example.test"], ports: [{DATA}]}}
"""
REFUSED = {"EHOSTUNREACH", "ECONNREFUSED", "EACCES"}
CUT = {"ECONNRESET", "EPIPE"}


@pytest.fixture(scope="module")
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    path = network.directory / "stated.yaml"
    path.write_text(POLICY)
    with Daemon(network, "-config", str(path), "-flow-log", str(log_of(network))) as made:
        yield made


@pytest.fixture(scope="module")
def agent(daemon: Daemon) -> Iterator[Agent]:
    with Agent(daemon.network.guest, daemon.socket) as made:
        answer = made.run("resolve", GATEWAY_ADDR, NAME, "A", "udp")
        assert answer["answers"] == [INTERNET_ADDR]
        yield made


def log_of(network: Network) -> Path:
    return network.directory / "stated-flows.log"


def say(agent: Agent, data: bytes, *words: object, port: int = ECHO) -> dict[str, Any]:
    return agent.run("say", INTERNET_ADDR, port, data.hex(), *words)


def is_cut(outcome: dict[str, Any]) -> bool:
    return outcome["received"] == 0 and outcome["errno"] in CUT


def lines(network: Network) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_of(network).read_text().splitlines()]


# --- the stated name of a connection ----------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        hellos.hello(NAME),
        hellos.hello(NAME, extensions=[hellos.POST_QUANTUM, hellos.ECH]),
        hellos.of_openssl(NAME),
        f"PUT / HTTP/1.1\r\nHost: {NAME}:7001\r\nContent-Length: 40000\r\n\r\n".encode() + b"x" * 40_000,
    ],
    ids=["tls", "post-quantum", "openssl", "http"],
)
def test_a_connection_that_states_the_allowed_name_reaches_its_server(agent: Agent, data: bytes) -> None:
    assert say(agent, data) == {"received": len(data), "errno": ""}


@pytest.mark.parametrize(
    "data",
    [
        hellos.hello("shared.other.test"),
        hellos.hello(),
        hellos.hello("cloudflare-ech.com", extensions=[hellos.ECH]),
        hellos.hello(NAME, "shared.other.test"),
        b"GET / HTTP/1.1\r\nHost: shared.other.test\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        f"GET http://shared.other.test/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode(),
        f"GET / HTTP/1.1\r\nHost: {NAME}\r\nHost: shared.other.test\r\n\r\n".encode(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"a tunnel of its own",
        b"\0\1\2\3",
    ],
    ids=[
        *("other-sni", "no-sni", "ech", "two-names", "other-host", "no-host", "target-differs", "two-hosts"),
        *("http2", "text", "bytes"),
    ],
)
def test_a_connection_that_states_no_allowed_name_is_cut_before_a_byte_has_left(
    agent: Agent, data: bytes
) -> None:
    assert is_cut(say(agent, data))


def test_each_request_of_a_connection_states_the_allowed_name(agent: Agent, network: Network) -> None:
    good = f"PUT /x HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 9\r\n\r\nGET / HTT".encode()
    bad = b"GET / HTTP/1.1\r\nHost: shared.other.test\r\n\r\n"
    for data, words in ((good * 30, ()), (good * 30, (7, 0.0005))):
        assert say(agent, data, *words) == {"received": len(data), "errno": ""}
    upgrade = f"GET /x HTTP/1.1\r\nHost: {NAME}\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".encode()
    frames = b"\x81\x85mask" + bad * 10
    assert say(agent, upgrade + frames)["received"] == len(upgrade + frames)
    assert is_cut(say(agent, upgrade + bad))
    # Pipelined, and in segments of their own. What the server sends back shows what has reached it.
    for words in ((), (len(good), 0.05)):
        outcome = say(agent, good + bad, *words)
        assert outcome["errno"] in CUT
        assert outcome["received"] <= len(good)
    smuggled = f"PUT / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert is_cut(say(agent, smuggled.encode() + b"0\r\n\r\n" + bad))
    wait_for(
        lambda: [line for line in lines(network) if line.get("stated_name") == "shared.other.test"],
        "the line of the flow log",
    )


def test_a_hello_in_segments_of_one_byte(agent: Agent) -> None:
    good, bad = hellos.hello(NAME), hellos.hello("shared.other.test")
    assert say(agent, good, 1, 0.001)["received"] == len(good)
    assert is_cut(say(agent, bad, 1, 0.001))


def test_a_hello_in_records_of_one_byte(agent: Agent) -> None:
    good = hellos.hello(NAME, extensions=[hellos.POST_QUANTUM], size=1)
    assert say(agent, good)["received"] == len(good)


def test_a_hello_that_never_ends_is_cut(agent: Agent) -> None:
    assert is_cut(say(agent, b"\x16\3\1\0\4\1\0\x3f\0" + b"\x16\3\1\0\1x" * (MAX_BYTES // 6)))


def test_a_guest_that_is_silent_first_and_one_that_stops_in_its_hello(agent: Agent) -> None:
    good = hellos.hello(NAME)
    # 12 s for one pause of 12 s each: the first byte, then the rest, is too slow.
    late = say(agent, good, len(good) - 1, 12)
    assert late["received"] == 0
    assert late["errno"] in CUT


def test_the_record_has_the_name_and_the_rule_of_what_was_cut(agent: Agent, network: Network) -> None:
    say(agent, hellos.hello("recorded.other.test"))
    say(agent, hellos.hello("recorded.example.test"))

    def found() -> list[dict[str, Any]]:
        hits = [line for line in lines(network) if str(line.get("stated_name")).startswith("recorded.")]
        return hits if len(hits) == 2 else []

    refused, allowed = wait_for(found, "two lines of the flow log", 10)
    assert (refused["kind"], refused["rule"], refused["errno"]) == (
        *("flow-refused", "egress-policy.preset", "EACCES"),
    )
    assert (refused["stated_name"], refused["name"]) == ("recorded.other.test", NAME)
    assert (allowed["kind"], allowed["rule"]) == ("flow-closed", "egress-policy.rules[0]")
    assert allowed["bytes_from_guest"] == len(hellos.hello("recorded.example.test"))
    assert allowed["duration_seconds"] > 0


# --- addresses --------------------------------------------------------------------------------


def test_a_raw_address_and_the_host_and_metadata_are_refused(agent: Agent) -> None:
    for address, port in ((SECOND_ADDR, ECHO), (HOST_ADDR, 22), (METADATA_ADDR, HTTP), (INTERNET_ADDR, 25)):
        assert agent.run("connect", address, port)["errno"] in REFUSED, (address, port)


@pytest.mark.parametrize("spelling", ["0306.022.0.3", "3323068419", "0xc6120003", "198.18.3"])
def test_other_spellings_of_an_address_are_the_same_address(agent: Agent, spelling: str) -> None:
    assert socket.inet_aton(spelling) == socket.inet_aton(SECOND_ADDR)
    assert agent.run("connect", spelling, ECHO)["errno"] in REFUSED


def test_a_mapped_address_is_the_ipv4_address(agent: Agent) -> None:
    assert agent.run("connect", f"::ffff:{SECOND_ADDR}", ECHO)["errno"] in REFUSED
    assert agent.run("connect", f"::ffff:{INTERNET_ADDR}", DATA)["errno"] == ""


def test_an_address_is_refused_after_its_answer_has_expired(agent: Agent) -> None:
    assert ask(agent, "brief.example.test") == ("NOERROR", [SECOND_ADDR])
    assert agent.run("connect", SECOND_ADDR, DATA)["errno"] == ""
    # A second, but five at least.
    wait_for(lambda: agent.run("connect", SECOND_ADDR, DATA)["errno"] in REFUSED, "the end of the answer", 20)


def test_a_protocol_without_names_passes_where_no_rule_asks_for_one(agent: Agent) -> None:
    assert agent.run("transfer", INTERNET_ADDR, DATA, 100_000, 100_000)["errors"] == []


# --- curl, with certificates ------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(network: Network) -> Iterator[str]:
    """A TLS server at port 443."""
    key, cert = network.directory / "key.pem", network.directory / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    words += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={NAME}"]
    subprocess.run(words, check=True, capture_output=True)
    server = network.internet.popen(
        ["openssl", "s_server", "-accept", "443", "-key", str(key), "-cert", str(cert), "-www", "-quiet"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: "LISTEN" in network.internet.run("ss", "-Htln", "sport", "=", "443").stdout, "TLS")
    yield f"https://{NAME}/"
    server.kill()
    server.wait()


def curl(agent: Agent, *words: str) -> int:
    return agent.guest.run(
        "curl", "-ksS", "-o", "/dev/null", "--max-time", "10", *words, check=False
    ).returncode


def test_curl_reaches_an_allowed_name_and_no_other_one_at_its_address(agent: Agent, web: str) -> None:
    assert curl(agent, web) == 0
    assert curl(agent, f"http://{NAME}/") == 0
    assert curl(agent, "-H", "Host: shared.other.test", f"http://{NAME}/") != 0
    other = "shared.other.test"
    assert curl(agent, "--resolve", f"{other}:443:{INTERNET_ADDR}", f"https://{other}/") != 0
    assert curl(agent, f"https://{INTERNET_ADDR}/") != 0
    assert curl(agent, f"https://{other}/") == 6, "its name is not resolved"


def test_another_host_inside_tls_is_not_seen(agent: Agent, web: str) -> None:
    assert curl(agent, "-H", "Host: shared.other.test", web) == 0, "the table of docs/policy.md says so"


# --- QUIC -------------------------------------------------------------------------------------


def quic(name: str, *, cut: int = 0) -> list[str]:
    """The first datagrams of a QUIC client. cut: where its hello is cut into two."""
    message = hellos.message([hellos.server_name(name.encode()), hellos.POST_QUANTUM])
    parts = [(0, message)] if not cut else [(cut, message[cut:]), (0, message[:cut])]
    return [
        hellos.initial(hellos.crypto(at, part), number=number).hex()
        for number, (at, part) in enumerate(parts)
    ]


def test_quic_reaches_the_allowed_name_alone(agent: Agent) -> None:
    def send(*datagrams: str) -> int:
        return int(agent.run("datagrams", INTERNET_ADDR, UDP_ECHO, *datagrams)["received"])

    assert send(*quic(NAME)) == 1
    assert send(*quic(NAME, cut=600), "40" * 30) == 3
    assert send(*quic("shared.other.test")) == 0
    assert send("40" * 1200) == 0
    assert send("41" * 20) == 0


# --- DNS --------------------------------------------------------------------------------------


def ask(agent: Agent, name: str, kind: str = "A", how: str = "udp") -> tuple[str, list[str]]:
    answer = agent.run("resolve", GATEWAY_ADDR, name, kind, how)
    return answer["rcode"], answer["answers"]


@pytest.mark.parametrize("how", ["udp", "tcp"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("shared.other.test", "A"),
        ("x" * 60 + "." + "y" * 60 + ".evil.test", "TXT"),
        ("2.0.18.198.in-addr.arpa", "PTR"),
    ],
)
def test_a_question_for_another_name_does_not_leave_the_host(
    agent: Agent, name: str, kind: str, how: str
) -> None:
    assert ask(agent, name, kind, how) == ("REFUSED", [])


def test_another_name_server_is_not_reached(agent: Agent) -> None:
    for how in ("udp", "tcp"):
        with pytest.raises(AssertionError):
            agent.run("resolve", INTERNET_ADDR, NAME, "A", how)
    assert agent.run("connect", INTERNET_ADDR, 853)["errno"] in REFUSED


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rebound.example.test", "A"),
        ("half.example.test", "A"),
        ("metadata.example.test", "A"),
        ("mapped.example.test", "AAAA"),
        ("nat64.example.test", "AAAA"),
        ("chain.example.test", "A"),
        ("inward.example.test", "A"),
        ("hint.example.test", "HTTPS"),
    ],
)
def test_an_outside_name_that_leads_inside_has_no_answer(agent: Agent, name: str, kind: str) -> None:
    for _ in range(2):
        assert ask(agent, name, kind) == ("REFUSED", [])


def test_names_of_the_gateway_are_answered(agent: Agent) -> None:
    assert ask(agent, "localhost") == ("NOERROR", ["127.0.0.1"])


def test_https_records_lose_the_keys_for_encrypted_hellos(agent: Agent) -> None:
    rcode, answers = ask(agent, NAME, "HTTPS")
    assert rcode == "NOERROR"
    assert "ech=" not in answers[0]
    assert 'alpn="h2,h3"' in answers[0]


def test_the_record_has_questions(agent: Agent, network: Network) -> None:
    ask(agent, "asked.other.test")
    ask(agent, "rebound.example.test")

    def found() -> dict[str, Any]:
        rules = {line["name"]: line["rule"] for line in lines(network) if line["kind"] == "question-answered"}
        return rules if {"asked.other.test", "rebound.example.test"} <= rules.keys() else {}

    rules = wait_for(found, "lines about questions", 10)
    assert rules["asked.other.test"] == "egress-policy.preset"
    assert rules["rebound.example.test"] == "egress-policy.rebinding"
    assert rules[NAME] is None


# --- other ways out ---------------------------------------------------------------------------


def test_an_icmp_tunnel_is_refused(agent: Agent) -> None:
    ping = agent.guest.run("ping", "-c", "1", "-W", "1", SECOND_ADDR, check=False)
    assert "Packet filtered" in ping.stdout
