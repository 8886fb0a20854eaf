"""The forms of a line: readable on a terminal, with a priority in the journal, else JSON."""

import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pipeline import logs

ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("JOURNAL_STREAM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def on_terminal(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> str:
    """What a line looks like on a terminal."""
    master, slave = os.openpty()
    monkeypatch.setattr(logs, "STDERR", slave)
    logs.setup()
    logs.logger("ingress").info("guest connected", **fields)
    logs.flush(5)
    text = os.read(master, 4096).decode()
    os.close(master)
    os.close(slave)
    return text


def on_pipe(monkeypatch: pytest.MonkeyPatch, *, journal: bool) -> list[str]:
    """What an information and an error look like on a pipe."""
    reader, writer = os.pipe()
    monkeypatch.setattr(logs, "STDERR", writer)
    found = os.fstat(writer)
    inode = found.st_ino if journal else found.st_ino + 1
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{inode}")
    logs.setup()
    logs.logger("ingress").info("guest connected")
    logs.logger("ingress").error("no more guests")
    logs.flush(5)
    text = os.read(reader, 4096).decode()
    os.close(reader)
    os.close(writer)
    return text.splitlines()


def test_on_a_terminal_a_line_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_terminal(monkeypatch, link=3)
    assert "guest connected" in text
    assert not text.startswith("{")
    assert ESCAPE in text


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_colours_gets_none(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    text = on_terminal(monkeypatch, link=3)
    assert ESCAPE not in text
    assert "link=3" in text


def test_an_empty_no_color_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert ESCAPE in on_terminal(monkeypatch)


def test_a_guest_cannot_send_commands_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_terminal(monkeypatch, host_name=f"a{ESCAPE}]0;title\x07\r\nnext ü")
    assert ESCAPE not in text
    assert "\x07" not in text
    assert "x1b]0;title" in text
    assert "next ü" in text
    assert text.count("\n") == 1


def test_elsewhere_a_line_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [json.loads(line)["level"] for line in on_pipe(monkeypatch, journal=False)] == ["info", "error"]


def test_in_the_journal_a_line_has_its_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = on_pipe(monkeypatch, journal=True)
    assert (first[:3], second[:3]) == ("<6>", "<3>")
    assert json.loads(first[3:])["event"] == "guest connected"
