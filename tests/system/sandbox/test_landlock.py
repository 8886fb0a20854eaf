"""Landlock: a process without files."""

import os
import socket
from functools import partial
from pathlib import Path

import pytest

from pipeline.system.sandbox import landlock, privileges
from tests.support.in_child import in_child, outcome

pytestmark = pytest.mark.skipif(landlock.version() == 0, reason="the kernel has no Landlock")
NO = "Permission denied"


def test_only_what_lies_beneath_the_directories_can_be_read_and_nothing_written(tmp_path: Path) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")

    def run() -> list[str]:
        held = os.open(tmp_path / "closed" / "file", os.O_RDONLY)
        privileges.refuse_new()
        landlock.restrict([str(tmp_path / "open"), str(tmp_path / "missing")])
        return [
            outcome(partial(os.open, tmp_path / "open" / "file", os.O_RDONLY)),
            outcome(partial(os.open, tmp_path / "closed" / "file", os.O_RDONLY)),
            outcome(partial(os.open, tmp_path / "open" / "file", os.O_WRONLY)),
            outcome(partial(os.open, tmp_path / "open" / "new", os.O_WRONLY | os.O_CREAT)),
            outcome(partial(os.unlink, tmp_path / "open" / "file")),
            os.read(held, 10).decode(),
        ]

    assert in_child(run) == ["works", NO, NO, NO, NO, "text"]


@pytest.mark.skipif(landlock.version() < 4, reason="the kernel's Landlock does not know TCP")
def test_tcp_may_be_taken_away_too() -> None:
    def run(*, tcp: bool) -> list[str]:
        privileges.refuse_new()
        landlock.restrict(tcp=tcp)
        with socket.socket() as sock, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            return [outcome(partial(each.bind, ("127.0.0.1", 0))) for each in (sock, datagrams)]

    assert in_child(partial(run, tcp=False)) == [NO, "works"]
    assert in_child(partial(run, tcp=True)) == ["works", "works"]


@pytest.mark.skipif(landlock.version() < 6, reason="the kernel's Landlock does not know signals")
def test_signals_reach_no_process_outside() -> None:
    def run() -> list[str]:
        privileges.refuse_new()
        landlock.restrict()
        return [outcome(partial(os.kill, pid, 0)) for pid in (os.getpid(), os.getppid())]

    assert in_child(run) == ["works", "Operation not permitted"]
