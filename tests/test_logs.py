"""Log lines: their keys, their levels, and one write for each."""

import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from pipeline import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_one_json_object_with_its_first_keys_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    logs.logger("tcp0").info("flow opened", guest="192.168.127.2", flow='a "b"\n', number=3)
    (line,) = lines(path)
    assert list(line)[:5] == ["time", "level", "event", "worker", "pid"]
    assert (line["level"], line["event"], line["worker"], line["pid"]) == (
        "info",
        "flow opened",
        "tcp0",
        os.getpid(),
    )
    assert (line["guest"], line["flow"], line["number"]) == ("192.168.127.2", 'a "b"\n', 3)
    assert line["time"].endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
    assert abs(age.total_seconds()) < 60


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_lines_below_the_level_are_left_out(level: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path), level)
    log = logs.logger("demux")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert len(lines(path)) == count


def test_what_json_does_not_know_is_shown_as_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    logs.logger("x").error("failed", error=OSError(2, "gone"), name="\udcff")
    assert "gone" in lines(path)[0]["error"]


def test_exceptions_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    try:
        raise ValueError("broken")
    except ValueError:
        logs.logger("x").exception("worker failed")
    (line,) = lines(path)
    assert "ValueError: broken" in line["exception"]


def test_standard_logging_takes_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    logging.getLogger("aiohttp.server").error("bad %s", "request")
    logging.getLogger("aiohttp.server").info("not of interest")
    (line,) = lines(path)
    assert (line["event"], line["logger"], line["level"]) == ("bad request", "aiohttp.server", "error")


def test_the_log_file_is_emptied_once_and_then_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    logs.try_file(str(path))
    assert path.read_text() == ""
    for _ in range(2):
        logs.setup(str(path))
        logs.logger("x").info("again")
    assert len(lines(path)) == 2


def test_lines_of_forked_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    children = []
    for worker in range(4):
        pid = os.fork()
        if pid == 0:
            log = logs.logger(f"w{worker}")
            for number in range(200):
                log.info("line", number=number, filler="x" * 500)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    found = lines(path)
    assert len(found) == 800
    assert {line["pid"] for line in found} == set(children)


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        logs.try_file(str(tmp_path / "no" / "log"))


def test_debug_on_a_terminal_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    monkeypatch.setattr(logs, "STDERR", slave)
    logs.setup("", "debug", debug=True)
    logs.logger("tcp0").debug("hello there", guest="g")
    text = os.read(master, 4096).decode()
    os.close(master)
    os.close(slave)
    assert "hello there" in text
    assert not text.startswith("{")
