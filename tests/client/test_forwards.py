"""The commands expose and unexpose, with an API that the test plays."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.client import api
from pipeline.client.forwards import EXPOSE, UNEXPOSE
from tests.support.fake_api import FakeApi


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    made = FakeApi(tmp_path / "api.sock")
    monkeypatch.setenv(api.VARIABLE, made.url)
    made.says("/status", {"network": {"guest": "10.0.0.2"}})
    yield made
    made.close()


def test_a_forward_leads_to_the_first_guest(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["expose", "8080:80", ":53:192.168.127.3:53/udp"]) == 0
    assert server.posted == [
        (EXPOSE, {"local": "127.0.0.1:8080", "remote": "10.0.0.2:80", "protocol": "tcp"}),
        (EXPOSE, {"local": ":53", "remote": "192.168.127.3:53", "protocol": "udp"}),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "127.0.0.1:8080 -> 10.0.0.2:80 tcp",
        ":53 -> 192.168.127.3:53 udp",
    ]


def test_a_word_with_a_guest_needs_no_further_request(server: FakeApi) -> None:
    assert cli.main(["expose", "2222:192.168.127.3:22"]) == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("words", [["0:10.0.0.2:80", "-json"], ["--json", "0:10.0.0.2:80"]])
def test_a_port_that_the_system_chose_is_printed(
    words: list[str], server: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = {"local": "127.0.0.1:40123", "remote": "10.0.0.2:80", "protocol": "tcp"}
    server.says(EXPOSE, opened)
    assert cli.main(["expose", *words]) == 0
    assert json.loads(capsys.readouterr().out) == [opened]


def test_if_one_forward_fails_none_stays_open(
    server: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    post = api.Api.post

    def third_fails(self: api.Api, path: str, body: dict[str, str]) -> object:
        if body["local"].endswith(":8002"):
            raise api.RefusedError("listen tcp 127.0.0.1:8002: bind: address already in use")
        return post(self, path, body)

    monkeypatch.setattr(api.Api, "post", third_fails)
    assert cli.main(["expose", "8000-8003:10.0.0.2:8000-8003"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "gvtap-pipeline expose: tcp 127.0.0.1:8002 to 10.0.0.2:8002: "
        "listen tcp 127.0.0.1:8002: bind: address already in use\n"
    )
    assert [target for target, _ in server.posted] == [EXPOSE, EXPOSE, UNEXPOSE, UNEXPOSE]
    assert server.posted[2][1] == {"local": "127.0.0.1:8000", "protocol": "tcp"}


def test_what_cannot_be_closed_again_is_named(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    server.says(EXPOSE, {"local": "127.0.0.1:40000"})
    server.refuses(UNEXPOSE, "no")
    post = api.Api.post
    with pytest.MonkeyPatch.context() as patch:

        def second_fails(self: api.Api, path: str, body: dict[str, str]) -> object:
            if body["local"].endswith(":1"):
                raise api.ApiError("gone")
            return post(self, path, body)

        patch.setattr(api.Api, "post", second_fails)
        assert cli.main(["expose", "0:10.0.0.2:80", "1:10.0.0.2:80"]) == 1
    assert capsys.readouterr().err.endswith(": gone (still open: 127.0.0.1:40000)\n")


def test_forwards_are_closed_by_the_hosts_side(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["unexpose", "8080", ":53:53/udp", "/run/x.sock", "-json"]) == 0
    closed = [
        {"local": "127.0.0.1:8080", "protocol": "tcp"},
        {"local": ":53", "protocol": "udp"},
        {"local": "/run/x.sock", "protocol": "unix"},
    ]
    assert [body for _, body in server.posted] == closed
    assert json.loads(capsys.readouterr().out) == closed


def test_closing_goes_on_after_a_forward_that_is_not_open(
    server: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuses(UNEXPOSE, "proxy not found")
    assert cli.main(["unexpose", "8080-8081"]) == 1
    assert len(server.posted) == 2
    assert capsys.readouterr().err == (
        "gvtap-pipeline unexpose: tcp 127.0.0.1:8080: proxy not found; tcp 127.0.0.1:8081: proxy not found; "
        "'gvtap-pipeline status' lists what is open\n"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["expose"],
            "expose needs FORWARD..., not none\nUsage of gvtap-pipeline expose [flags] FORWARD...\n",
        ),
        (["unexpose", "-json"], "unexpose needs FORWARD..., not none\n"),
        (["expose", "8080"], 'gvtap-pipeline expose: "8080" is not a forward (allowed: '),
        (["unexpose", "x"], 'gvtap-pipeline unexpose: "x" is not a forward (allowed: '),
        (["expose", "8080:80", "-nosuch"], "flag provided but not defined: -nosuch\n"),
    ],
)
def test_a_wrong_line_is_an_error_of_usage_and_opens_nothing(
    words: list[str], text: str, server: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith(text)
    assert server.requests == []
