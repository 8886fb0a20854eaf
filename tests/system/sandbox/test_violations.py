"""The test suite's filters, which report calls that are not allowed (tests/support/violations.py)."""

import errno
import json
import os
import socket
from functools import partial
from pathlib import Path

import pytest

from pipeline.system.sandbox import libseccomp, privileges, seccomp
from pipeline.system.sandbox.calls import calls
from tests.support import violations
from tests.support.in_child import in_child, outcome
from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for
from tests.system.sandbox.test_libseccomp import NEEDED

pytestmark = pytest.mark.skipif(libseccomp.shortage() != "", reason="this system cannot filter calls")


def test_a_call_that_is_not_allowed_fails_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "violations"

    def run() -> list[str]:
        violations.report_to(violations.start_monitor(str(path)))
        privileges.refuse_new()
        kept = (*NEEDED, *calls("to the monitor", "sendmsg"))
        fruitless = calls("in vain", "getcwd")
        seccomp.load(libseccomp.number(), libseccomp.filters(kept, (), fruitless, kill=False))
        return [
            outcome(os.getcwd),
            outcome(socket.socket),
            outcome(partial(os.open, "/nonexistent", os.O_RDONLY)),
        ]

    assert in_child(run) == [os.strerror(errno.EPERM)] * 3
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["call"] for row in rows] == ["socket", "openat"]
    assert rows[0]["arguments"][0] == hex(socket.AF_INET)
    monkeypatch.setenv(violations.VARIABLE, str(path))
    assert sorted(text.split()[1] for text in violations.recorded()) == ["openat['...',", "socket['0x2',"]


def test_a_daemon_whose_calls_are_all_listed_serves_and_records_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "violations"
    monkeypatch.setenv(violations.VARIABLE, str(path))
    with LoneDaemon(tmp_path, "-sandbox", "strict") as daemon:
        wait_for(
            lambda: daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200"), "all answer"
        )
    assert not violations.recorded()
