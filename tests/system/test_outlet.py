"""Output by a thread: when the thread may start."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.system.outlet import Outlet

SECONDS = 10.0


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("way", ["go_on", "flush"])
def test_what_is_held_waits_without_a_thread(ends: tuple[int, int], way: str) -> None:
    reader, writer = ends
    outlet = Outlet(1000)
    before = threading.active_count()
    outlet.hold()
    for _ in range(3):
        assert outlet.put(writer, b"line\n")
    assert threading.active_count() == before
    with pytest.raises(BlockingIOError):
        os.read(reader, 100)
    if way == "go_on":
        outlet.go_on()
    assert outlet.flush(SECONDS)
    assert os.read(reader, 100) == b"line\n" * 3
    assert outlet.stop_thread(SECONDS)


def test_an_outlet_that_goes_on_empty_starts_no_thread(ends: tuple[int, int]) -> None:
    outlet = Outlet(1000)
    before = threading.active_count()
    outlet.hold()
    outlet.go_on()
    assert threading.active_count() == before
    outlet.put(ends[1], b"x")
    assert outlet.flush(SECONDS)
    assert outlet.stop_thread(SECONDS)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_loss_is_reported_where_it_happened(ends: tuple[int, int], tmp_path: Path) -> None:
    reader, writer = ends
    full = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(1000, notice=lambda count: b"%d lost\n" % count)
    outlet.put(full, b"one\n")
    outlet.put(full, b"two\n")
    assert outlet.flush(SECONDS)
    assert outlet.failing[full].errno == errno.ENOSPC
    outlet.put(writer, b"other\n")
    assert outlet.flush(SECONDS)
    assert os.read(reader, 100) == b"other\n"
    assert writer not in outlet.failing
    room = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    os.dup2(room, full)
    os.close(room)
    outlet.put(full, b"three\n")
    assert outlet.flush(SECONDS)
    assert not outlet.failing
    assert (tmp_path / "file").read_bytes() == b"2 lost\nthree\n"
    assert outlet.stop_thread(SECONDS)
    os.close(full)
