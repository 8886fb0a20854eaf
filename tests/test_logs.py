"""Log lines: their keys, their levels, and one write for each."""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from pipeline import logs
from pipeline.log.limits import Limiter, Rate
from tests.support.ready import readable

UNLIMITED = Rate(1 << 30, 1.0)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs, "_limiter", Limiter(UNLIMITED, UNLIMITED, UNLIMITED))
    monkeypatch.setattr(logs, "MAX_TEXT", 1 << 20)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logs.flush(5)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(path: Path) -> list[dict[str, Any]]:
    logs.flush(5)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_level_changes_for_loggers_that_exist(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    before = structlog.get_logger().bind(worker="tcp0")
    before.debug("no")
    logs.set_level("debug")
    before.debug("yes")
    logs.set_level("error")
    before.info("no")
    logs.logger("x").warning("no")
    before.error("yes")
    logs.set_level("info")
    before.info("yes")
    assert [line["event"] for line in lines(path)] == ["yes"] * 3


def test_a_line_is_one_json_object_with_its_first_keys_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    logs.logger("tcp0").info("lease given", guest="192.168.127.2", flow='a "b"\n', number=3)
    (line,) = lines(path)
    assert list(line)[:6] == ["time", "level", "event", "kind", "worker", "pid"]
    first = (line["level"], line["event"], line["kind"], line["worker"], line["pid"])
    assert first == ("info", "lease given", "lease-given", "tcp0", os.getpid())
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
            os._exit(0 if logs.flush(10) else 1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    found = lines(path)
    assert len(found) == 800
    assert {line["pid"] for line in found} == set(children)


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        logs.try_file(str(tmp_path / "no" / "log"))


# --- a log that takes nothing ---------------------------------------------------------------------


def fill(fd: int) -> None:
    """Fill a pipe to the last byte."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"." * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b".")
    os.set_blocking(fd, True)


def read_all(fd: int, until: str) -> str:
    """Read a pipe until a text is there."""
    text = ""
    while until not in text:
        assert readable(fd, 10), text
        text += os.read(fd, 1 << 20).decode()
    return text


def test_a_log_that_nobody_reads_blocks_no_process_and_says_later_how_many_lines_were_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    fill(writer)
    monkeypatch.setattr(logs, "STDERR", writer)
    logs.setup()
    log = logs.logger("tcp0")
    lost_before = logs.lost()
    count = 3 * logs.MAX_QUEUED // 500
    # Would not come back if a single one of them waited for the reader.
    for number in range(count):
        log.info("line", number=number, filler="x" * 500)
    lost = logs.lost() - lost_before
    assert 0 < lost < count
    assert not logs.flush(0.05), "a flush has a bound as well"
    text = read_all(reader, "log lines dropped").lstrip(".")
    rows = [json.loads(line) for line in text.splitlines()]
    kept = [row["number"] for row in rows if row["event"] == "line"]
    assert kept == list(range(count - lost)), "lines stay whole and in order"
    (told,) = (row for row in rows if row["event"] == "log lines dropped")
    assert (told["count"], told["level"], told["pid"]) == (lost, "warning", os.getpid())
    log.info("again")
    assert '"again"' in read_all(reader, "again")
    os.close(reader)
    logs.flush(5)
    os.close(writer)


def test_lines_after_a_loss_come_after_the_line_that_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    fill(writer)
    monkeypatch.setattr(logs, "STDERR", writer)
    logs.setup()
    log = logs.logger("tcp0")
    lost_before = logs.lost()
    while logs.lost() == lost_before:
        log.info("line", filler="x" * 5000)
    text = read_all(reader, "log lines dropped")
    log.info("after")
    text += read_all(reader, "after")
    assert text.count("log lines dropped") == 1
    assert text.index("log lines dropped") < text.index('"after"')
    logs.flush(5)
    os.close(reader)
    os.close(writer)


def test_a_log_whose_reader_left_costs_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(logs, "STDERR", writer)
    logs.setup()
    lost_before = logs.lost()
    logs.logger("x").info("one")
    logs.logger("x").info("two")
    assert logs.flush(5)
    assert logs.lost() - lost_before == 2
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_log_on_a_full_disk_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(logs, "STDERR", fd)
    logs.setup()
    lost_before = logs.lost()
    logs.logger("x").info("lost")
    assert logs.flush(5)
    assert logs.lost() == lost_before + 1
    room = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(room, fd)
    os.close(room)
    logs.logger("x").info("kept")
    rows = lines(tmp_path / "log")
    assert [row["event"] for row in rows] == ["log lines dropped", "kept"]
    assert rows[0]["count"] >= 1
    os.close(fd)


def test_a_log_in_a_fifo_needs_no_reader_yet(tmp_path: Path) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)
    logs.try_file(str(path))
    logs.setup(str(path))
    logs.logger("x").info("early")
    assert logs.flush(5)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert '"early"' in read_all(reader, "early")
    os.close(reader)


def test_a_nonblocking_log_gets_its_lines_when_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    fill(writer)
    os.set_blocking(writer, False)
    monkeypatch.setattr(logs, "STDERR", writer)
    logs.setup()
    logs.logger("x").info("waits")
    assert not logs.flush(0.05)
    assert '"waits"' in read_all(reader, "waits")
    assert logs.flush(5)
    os.close(reader)
    os.close(writer)


def test_a_forked_process_writes_its_own_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    reader, writer = os.pipe()
    fill(writer)
    logs.setup(str(path))
    logs._outlet.put(writer, b"parent's\n")
    pid = os.fork()
    if pid == 0:
        logs.begin("tcp0", lambda _count: None)
        logs.logger("tcp0").info("child's")
        os._exit(0 if logs.flush(10) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert row["event"] == "child's"
    assert read_all(reader, "parent's").count("parent's") == 1
    assert logs.flush(5)
    os.close(reader)
    os.close(writer)


def test_an_idle_process_has_no_thread_for_its_log(tmp_path: Path) -> None:
    logs.setup(str(tmp_path / "log"))
    logs.logger("x").info("line")
    assert logs.stop_thread(5)
    assert not [thread for thread in threading.enumerate() if thread.name == "outlet"]


# --- how often ------------------------------------------------------------------------------------


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_limiter", Limiter())
    monkeypatch.setattr(logs, "MAX_TEXT", 400)


@pytest.mark.usefixtures("limited")
def test_a_guest_that_reconnects_500_times_a_second_does_not_fill_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    log = logs.logger("ingress")
    for number in range(5000):
        who = {"link": number, "peer": f"10.0.0.7:{number}", "opened_by": "address 10.0.0.7"}
        log.info("guest connected", **who)
        log.error(f"cannot receive packets from 10.0.0.7:{number}, disconnecting: EOF {number}", **who)
    found = lines(path)
    # lines() flushes, and that reports what was left out.
    summaries = {line["of"]: line["suppressed"] for line in found if line["event"] == "log lines left out"}
    assert summaries == {"guest-connected": 4990, "cannot receive packets": 4990}
    assert len(found) == 22
    assert path.stat().st_size < 10_000


@pytest.mark.usefixtures("limited")
def test_links_of_no_known_peer_are_bounded_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    for number in range(5000):
        logs.logger("ingress").info("guest connected", link=number, peer="@")
    assert len(lines(path)) == 101


@pytest.mark.usefixtures("limited")
def test_a_noisy_guest_does_not_silence_the_others_or_the_operator(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    log = logs.logger("supervisor")
    for number in range(500):
        log.info("forward opened", guest="192.168.127.2", local=f":{number}")
        log.info("forward opened", operator=True, local="host")
    log.info("forward opened", guest="192.168.127.3", local="other")
    for _ in range(2):
        log.critical("the end")
    locals_ = [line.get("local") for line in lines(path)]
    assert locals_.count("host") == 500
    assert locals_.count("other") == 1
    assert sum(str(text).startswith(":") for text in locals_) == 10
    assert not any("operator" in line for line in lines(path))


@pytest.mark.usefixtures("limited")
def test_what_was_left_out_is_reported_without_another_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SUMMARY_AFTER", 0.05)
    path = tmp_path / "log"
    logs.setup(str(path))
    for _ in range(15):
        logs.logger("demux").warning("guest mac", kind="guest-mac-contested", link=3)
    deadline = time.monotonic() + 10
    while "left out" not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    *_, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert (last["event"], last["of"], last["suppressed"]) == ("log lines left out", "guest-mac-contested", 5)
    assert last["most"] == "link 3 (5)"


@pytest.mark.usefixtures("limited")
def test_a_text_that_a_guest_chose_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    logs.logger("x").warning("API request refused", why="y" * 1_000_000)
    (line,) = lines(path)
    assert line["why"] == "y" * 400 + "... (1000000 characters)"


@pytest.mark.usefixtures("limited")
def test_a_forked_process_counts_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    for _ in range(20):
        logs.logger("x").info("line", link=1)
    pid = os.fork()
    if pid == 0:
        for _ in range(12):
            logs.logger("x").info("line", link=1)
        os._exit(0 if logs.flush(10) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    found = [(line["pid"] == pid, line.get("suppressed", 0)) for line in lines(path)]
    assert sorted(found) == sorted([(False, 0)] * 10 + [(False, 10)] + [(True, 0)] * 10 + [(True, 2)])


@pytest.mark.usefixtures("limited")
def test_standard_logging_has_rates_by_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    for number in range(1000):
        logging.getLogger("asyncio").error("bad %s", number)
    assert len(lines(path)) == 101


@pytest.mark.usefixtures("limited")
def test_lines_of_asyncio_with_numbers_in_them_do_not_use_up_the_kinds(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path))
    for number in range(1000):
        logging.getLogger("asyncio").error(
            f"Task exception was never retrieved\nfuture: <Task finished name='Task-{number}'>"
        )
    for name in ("worker died", "capture ended"):
        logs.logger("x").error(name)
    found = [line["event"] for line in lines(path)]
    assert len(found) == 103
    assert {"worker died", "capture ended"} < set(found)


@pytest.mark.usefixtures("limited")
def test_at_level_debug_a_user_sees_more_and_the_log_is_still_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(str(path), "debug")
    for number in range(12_000):
        logs.logger("x").debug("bad request", client=f"192.168.127.2:{number}")
        if number % 100 == 0:
            logs._outlet.flush(10)
    assert 10_000 <= len(lines(path)) < 10_200
