"""The commands quotas show and quotas reset, with an API that the test plays."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.client import api
from pipeline.client.network import Network
from pipeline.client.quotas import QUOTAS, RESET
from tests.support.fake_api import FakeApi

RULE = "egress-policy.quotas[0]"
USES = [
    {
        "guest": "process 12",
        "guests": [3],
        "per": "day",
        "ends_at": "2026-02-01T00:00:00Z",
        "bytes_from_guest": 1_500_000,
        "bytes_to_guest": 20,
        "connections": 4,
        "dns_questions": 0,
        "quotas": [
            {"rule": RULE, "limit": "bytes", "most": 2_000_000, "left": 499_980},
            {"rule": RULE, "limit": "connections", "most": 5, "left": 1},
        ],
    }
]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    made = FakeApi(tmp_path / "api.sock")
    monkeypatch.setenv(api.VARIABLE, made.url)
    made.says(QUOTAS, USES)
    made.says(RESET, {"accounts": 2})
    yield made
    made.close()


def test_the_bound_of_which_least_is_left_is_shown(
    server: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["quotas", "show"]) == 0
    title, line = capsys.readouterr().out.splitlines()
    assert title.split()[:4] == ["GUEST", "PER", "UP", "DOWN"]
    assert line.split() == ["process", "12", "day", "1500000", "20", "4", "0", "1", "of", "5,", "connections"]
    assert cli.main(["quotas", "show", "-json"]) == 0
    assert json.loads(capsys.readouterr().out) == USES


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["all"], {"guest": "", "per": ""}),
        (["-per", "day", "192.168.127.3"], {"guest": "192.168.127.3", "per": "day"}),
    ],
)
def test_a_reset_says_how_many(
    server: FakeApi, capsys: pytest.CaptureFixture[str], words: list[str], asked: dict[str, str]
) -> None:
    assert cli.main(["quotas", "reset", *words]) == 0
    assert capsys.readouterr().out == "accounts that begin at zero: 2\n"
    assert server.posted == [(RESET, asked)]


def test_a_program_gets_the_same(server: FakeApi) -> None:
    network = Network(server.url)
    (use,) = network.quotas()
    assert (use.guest, use.guests, use.per, use.bytes_from_guest) == ("process 12", (3,), "day", 1_500_000)
    assert [(bound.limit, bound.left) for bound in use.quotas] == [("bytes", 499_980), ("connections", 1)]
    assert network.reset_quotas("3", "day") == 2
    assert server.posted == [(RESET, {"guest": "3", "per": "day"})]
