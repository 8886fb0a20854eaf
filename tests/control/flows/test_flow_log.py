"""The file of the flow log."""

import json
import os
import stat
from pathlib import Path

import pytest
import structlog

from pipeline.control.flows.flow_log import FlowLog
from pipeline.control.hub import Happened
from tests.support.netns import wait_for

LOG = structlog.get_logger()


def happened(kind: str = "flow-closed", lost: int = 0) -> Happened:
    return Happened(kind, 0.25, "tcp0", {"id": "tcp0-1", "name": "ä\n"}, lost)


def test_each_end_of_a_flow_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    before = os.umask(0)
    try:
        log = FlowLog(str(path), LOG)
    finally:
        os.umask(before)
    for kind in ("flow-closed", "flow-opened", "flow-failed", "flow-refused"):
        log.write(happened(kind))
    log.write(happened(lost=3))
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["flow-closed", "flow-failed", "flow-refused", "flow-closed"]
    assert lines[0] == {
        "time": "1970-01-01T00:00:00.250000Z",
        "kind": "flow-closed",
        "worker": "tcp0",
        "id": "tcp0-1",
        "name": "ä\n",
    }
    assert lines[-1]["lost"] == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert log.lost == 0


def test_a_file_is_continued_and_reopened(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    path.write_text("an earlier line\n")
    log = FlowLog(str(path), LOG)
    log.write(happened())
    wait_for(lambda: len(path.read_text().splitlines()) == 2, "the line")
    moved = path.rename(tmp_path / "old")
    log.reopen()
    log.write(happened())
    log.close()
    assert (len(moved.read_text().splitlines()), len(path.read_text().splitlines())) == (2, 1)


def test_a_file_that_cannot_be_opened_again_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = FlowLog(str(folder / "flows"), LOG)
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        log.reopen()
    log.write(happened())
    log.close()
    assert (tmp_path / "moved" / "flows").read_text().count("\n") == 1


def test_a_path_that_is_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        FlowLog(str(tmp_path), LOG)
