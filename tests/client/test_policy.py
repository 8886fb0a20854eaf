"""The commands policy show, set and explain, with an API that the test plays."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.client import api
from pipeline.client.policy import EXPLAIN, POLICY
from tests.support.fake_api import FakeApi

TEXT = """\
egress-policy:
  default: deny
  rules:
  - action: allow
    ports:
    - '443'
"""
SHOWN = {"default": "deny", "rules": [{"action": "allow", "ports": ["443"]}]}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    made = FakeApi(tmp_path / "api.sock")
    monkeypatch.setenv(api.VARIABLE, made.url)
    made.says(POLICY, SHOWN)
    yield made
    made.close()


def test_the_policy_is_shown_as_a_file_has_it(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "show"]) == 0
    assert capsys.readouterr().out == TEXT
    assert cli.main(["policy", "show", "-json"]) == 0
    assert json.loads(capsys.readouterr().out) == SHOWN


@pytest.mark.parametrize("text", [TEXT, json.dumps(SHOWN), f"log-level: debug\n{TEXT}"])
def test_a_policy_is_set_from_a_file_of_any_form(
    server: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    server.says(POLICY, {"ended": 3})
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    assert cli.main(["policy", "set", str(path)]) == 0
    assert cli.main(["policy", "set", "-keep", str(path)]) == 0
    assert server.posted == [(POLICY, SHOWN), (f"{POLICY}?connections=keep", SHOWN)]
    assert server.requests[0].startswith("PUT ")
    assert capsys.readouterr().out.splitlines()[0] == "changed; connections that were cut: 3"


def test_a_policy_is_set_from_standard_input(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    assert cli.main(["policy", "set", "-"]) == 0
    assert server.posted == [(POLICY, SHOWN)]


def test_the_daemon_says_what_is_wrong(
    server: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = json.dumps({"error": "must be allow or deny", "key": "default"})
    server.refuses(POLICY, problem, "400 Bad Request")
    path = tmp_path / "policy.yaml"
    path.write_text("default: maybe")
    assert cli.main(["policy", "set", str(path)]) == 1
    assert "policy set: default: must be allow or deny" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[", "- a", None])
def test_a_file_that_cannot_be_read_is_not_sent(
    server: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "policy.yaml"
    if text is not None:
        path.write_text(text)
    assert cli.main(["policy", "set", str(path)]) == 1
    assert str(path) in capsys.readouterr().err
    assert server.requests == []


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["192.0.2.7:443"], {"name": "", "port": 443, "protocol": "tcp", "address": "192.0.2.7"}),
        (["[2001:db8::7]:53/udp"], {"name": "", "port": 53, "protocol": "udp", "address": "2001:db8::7"}),
        (["192.0.2.7/icmp"], {"name": "", "port": 0, "protocol": "icmp", "address": "192.0.2.7"}),
        (["example.com:443"], {"name": "example.com", "port": 443, "protocol": "tcp"}),
        (
            ["-name", "example.com", "192.0.2.7:443"],
            {"name": "example.com", "port": 443, "protocol": "tcp", "address": "192.0.2.7"},
        ),
    ],
)
def test_explain_asks_about_a_guest_and_a_destination(
    server: FakeApi, capsys: pytest.CaptureFixture[str], words: list[str], asked: dict[str, object]
) -> None:
    passed = [{"rule": "egress-policy.rules[0]", "part": "ports"}]
    answer = {"allowed": False, "rule": "egress-policy.default", "why": "none fits", "passed": passed}
    server.says(EXPLAIN, answer | {"guest": "192.168.127.2", "address": "192.0.2.7"})
    *flags, destination = words
    assert cli.main(["policy", "explain", *flags, "3", destination]) == 1, "it is refused"
    assert server.posted == [(EXPLAIN, {"guest": "3", **asked})]
    assert capsys.readouterr().out.splitlines() == [
        "refused: 192.168.127.2 to 192.0.2.7",
        "egress-policy.default: none fits",
        "  egress-policy.rules[0] does not fit: ports",
    ]


@pytest.mark.parametrize("word", ["", "a:b:c", "192.0.2.7:x", "192.0.2.7:443/sctp"])
def test_a_wrong_destination_is_not_sent(
    server: FakeApi, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert cli.main(["policy", "explain", "3", word]) == 2
    assert "must be ADDRESS:PORT" in capsys.readouterr().err
    assert server.requests == []
