"""The commands about the forwards of a fleet, against a store in memory."""

from typing import Any

import pytest

pytest.importorskip("nats")

from pipeline.config import options
from pipeline.config.fleet import station_mac_of
from pipeline.engines.fleet import values
from pipeline.engines.fleet.values import Forward, Host, Place
from pipeline.fleet import command, forward_commands
from pipeline.go import flags
from tests.fleet.test_agent import FakeSession, Store

WORDS = ("-fleet", "nats://a", "-fleet-host", "somebody")
GUEST = "192.168.127.10:80"
KEY = "forward.tcp.8080.any"
WEB = Forward("tcp", ":8080", GUEST)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(command, "Session", lambda access: FakeSession(made))
    return made


def run(module: Any, name: str, *words: str) -> int:
    return int(getattr(module, name)(flags.parse(options.FLEET_COMMANDS, [*WORDS, *words]), ()))


def test_a_forward_is_opened_listed_and_closed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.put("place.020000000001", values.place_bytes(Place("beta", (bytes((192, 168, 127, 10)),))))
    assert run(forward_commands, "expose", f":8080:{GUEST}", f"53:{GUEST}/udp") == 0
    assert capsys.readouterr().out == f":8080 -> {GUEST} tcp\n127.0.0.1:53 -> {GUEST} udp\n"
    assert values.forward_of(KEY, store.keys[KEY][0]) == WEB
    assert run(forward_commands, "forwards") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [["tcp", ":8080", GUEST, "beta"], ["udp", "127.0.0.1:53", GUEST, "beta"]]
    assert run(forward_commands, "unexpose", ":8080", "53/udp") == 0
    assert not [key for key in store.keys if key.startswith(values.FORWARD)]


def test_a_port_leads_to_one_guest(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(forward_commands, "expose", f":8080:{GUEST}") == 0
    assert run(forward_commands, "expose", f":8080:{GUEST}") == 0, "nothing is to be done"
    assert run(forward_commands, "expose", ":8080:192.168.127.11:80") == 1
    error = capsys.readouterr().err
    assert error == f"tcp :8080 leads to {GUEST}: 'fleet unexpose' closes it\n"
    assert values.forward_of(KEY, store.keys[KEY][0]) == WEB


def test_of_two_writers_one_is_told(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeSession.write

    async def late(self: FakeSession, key: str, value: bytes | None, revision: int | None) -> bool:
        # Somebody else has been faster since the keys were read.
        store.put(key, values.forward_bytes(WEB._replace(remote="192.168.127.99:80")))
        return await whole(self, key, value, revision)

    monkeypatch.setattr(FakeSession, "write", late)
    assert run(forward_commands, "expose", f":8080:{GUEST}") == 1
    assert "somebody else has just opened it" in capsys.readouterr().err
    assert run(forward_commands, "unexpose", ":8080") == 1
    assert "somebody else has just changed it" in capsys.readouterr().err
    assert b"192.168.127.99" in store.keys[KEY][0]


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("8080:80", '"8080:80" does not name the guest (allowed: such as 127.0.0.1:8080:192.168.127.10:80)'),
        (":8080:[fe80::1]:80", "names a link-local address, by which other hosts reach no guest"),
        (f"localhost:8080:{GUEST}", "'localhost' is not an address"),
        (f":0:{GUEST}", "has no port from 1 to 65535"),
        ("x", "is not a forward"),
    ],
)
def test_a_word_that_no_host_could_open_is_refused(
    store: Store, capsys: pytest.CaptureFixture[str], word: str, error: str
) -> None:
    assert run(forward_commands, "expose", word) == 1
    assert error in capsys.readouterr().err
    assert store.keys == {}


def test_what_is_not_there_is_named_and_the_rest_is_closed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put(KEY, b"unreadable")
    assert run(forward_commands, "expose", f":8080:{GUEST}") == 1
    assert f"{KEY} cannot be read" in capsys.readouterr().err
    assert run(forward_commands, "unexpose", ":9", ":8080") == 1
    assert capsys.readouterr().err == "tcp :9: the fleet has no such forward\n"
    assert store.keys == {}


def test_a_host_is_none_of_its_guests(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Each host is a station with a place of its own."""
    store.put("host.alpha", values.host_bytes(Host("10.0.0.1", 4789, "n", "run", 1)))
    own = values.mac_key(station_mac_of("gvtap", "alpha"))
    for key in (own, "place.020000000001"):
        store.put(key, values.place_bytes(Place("alpha", (bytes((192, 168, 127, 10)),))))
    assert run(command, "guests") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run(command, "status") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-3] == "1"
