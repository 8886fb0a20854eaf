"""The command top: its flags, a terminal, a daemon, and the extra that it needs."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.client import api
from pipeline.client.top import command
from tests.support import played_daemon
from tests.support.fake_api import FakeApi

SECONDS = 60.0
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
"""A sequence that sets a colour of text or background."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    made = FakeApi(tmp_path / "api.sock")
    monkeypatch.setenv(api.VARIABLE, made.url)
    made.says("/status", played_daemon.status(0))
    made.says("/flows", played_daemon.flows(0))
    yield made
    made.close()


class Terminal:
    """Runs top on a terminal of 80 columns and 24 lines."""

    def __init__(self, server: FakeApi, **env: str) -> None:
        self._ours, theirs = pty.openpty()
        inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        size = {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "top", "-interval", "0.2"],
            **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
            env=inherited | size | {api.VARIABLE: server.url} | env,
            start_new_session=True,
        )
        os.close(theirs)
        self.data = b""

    def wait_for(self, text: bytes) -> None:
        """Read until the terminal got this."""
        deadline = time.monotonic() + SECONDS
        while text not in self.data:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.data!r}"
            if select.select([self._ours], [], [], left)[0]:
                self.data += os.read(self._ours, 65536)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def end(self) -> int:
        """The exit code. What the program writes meanwhile is read."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._ours], [], [], 0.1)[0]:
                self.data += self._rest()
        while select.select([self._ours], [], [], 0)[0] and (piece := self._rest()):
            self.data += piece
        self.process.kill()
        os.close(self._ours)
        return self.process.wait()

    def _rest(self) -> bytes:
        try:
            return os.read(self._ours, 65536)
        except OSError:  # Linux: the other end is closed
            return b""


def test_without_the_extra_the_command_for_pip_is_named(
    server: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "LIBRARY", "textual_that_is_not_there")
    assert cli.main(["top"]) == 1
    assert capsys.readouterr().err == (
        "gvtap-pipeline top: top needs textual_that_is_not_there, which is not installed: "
        "pip install 'gvtap-pipeline[top]'\n"
    )


def test_other_commands_do_not_load_the_library() -> None:
    code = (
        "import sys; from pipeline import cli, sub_commands; [c.load() for c in sub_commands.COMMANDS];"
        "print({'textual', 'rich', 'prometheus_client'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("given", ["", "0", "0.1", "3601", "-1", "nan", "inf", "2s", "x"])
def test_a_wrong_interval_is_an_error_of_usage(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", f"-interval={given}"]) == 2
    assert capsys.readouterr().err == (
        f'gvtap-pipeline top: -interval "{given}" is wrong (allowed: 0.2 to 3600 seconds)\n'
    )


def test_without_a_terminal_nothing_begins(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top"]) == 1
    assert capsys.readouterr().err.startswith("gvtap-pipeline top: top needs a terminal")
    assert server.requests == []


def test_a_daemon_that_refuses_at_the_start_is_reported_on_the_terminal_itself(server: FakeApi) -> None:
    server.refuses("/status", "no token", "401 Unauthorized")
    terminal = Terminal(server)
    terminal.wait_for(b"gvtap-pipeline top: no token (use -api-token-file FILE)")
    assert terminal.end() == 1
    assert b"\x1b[?1049h" not in terminal.data, "the screen was never taken"


def test_q_ends_it_and_gives_the_terminal_back(server: FakeApi) -> None:
    terminal = Terminal(server)
    terminal.wait_for(b"mirror.example.org:443")
    terminal.type(b"q")
    assert terminal.end() == 0
    assert COLOUR.search(terminal.data)
    assert terminal.data.count(b"\x1b[?1049h") == terminal.data.count(b"\x1b[?1049l") == 1


def test_sigterm_gives_the_terminal_back(server: FakeApi) -> None:
    terminal = Terminal(server)
    terminal.wait_for(b"mirror.example.org:443")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 0
    assert b"\x1b[?1049l" in terminal.data


def test_no_color_means_no_colour_at_all(server: FakeApi) -> None:
    terminal = Terminal(server, NO_COLOR="1")
    terminal.wait_for(b"mirror.example.org:443")
    terminal.type(b"q")
    assert terminal.end() == 0
    assert COLOUR.search(terminal.data) is None
    assert re.search(rb"\x1b\[(?:\d+;)*7[;m]", terminal.data), "the cursor is reversed"


def test_an_empty_no_color_means_nothing(server: FakeApi) -> None:
    terminal = Terminal(server, NO_COLOR="")
    terminal.wait_for(b"mirror.example.org:443")
    terminal.type(b"\x03")
    assert terminal.end() == 0
    assert COLOUR.search(terminal.data)
