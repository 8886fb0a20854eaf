"""Segments: zero memory, shared by fork, no name left."""

import errno
import os
from types import SimpleNamespace

import pytest

from pipeline.ipc import segment as segments
from pipeline.ipc.segment import Segment, SegmentError


def test_fresh_memory_is_zero_and_writable() -> None:
    segment = Segment.create(10_000)
    assert len(segment.buf) == 10_000
    assert not any(segment.buf)
    segment.buf[9_999] = 7
    assert segment.buf[9_999] == 7
    segment.close()


def test_a_forked_process_writes_into_the_same_memory() -> None:
    segment = Segment.create(4096)
    pid = os.fork()
    if pid == 0:
        segment.buf[:4] = b"seen"
        os._exit(0)
    os.waitpid(pid, 0)
    assert bytes(segment.buf[:4]) == b"seen"
    segment.close()


def test_no_name_exists_once_the_segment_does() -> None:
    segment = Segment.create(4096)
    assert not [name for name in os.listdir("/dev/shm") if f"gvtap-{os.getpid()}-" in name]
    segment.close()


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_is_not_positive_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        Segment.create(size)


def test_close_refuses_while_a_view_lives() -> None:
    segment = Segment.create(4096)
    view = segment.buf[:8]
    with pytest.raises(BufferError):
        segment.close()
    view.release()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system has no posix_fallocate")
def test_the_memory_is_reserved_when_the_segment_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []
    reserve = os.posix_fallocate

    def watch(fd: int, offset: int, length: int) -> None:
        reserve(fd, offset, length)
        blocks.append(os.fstat(fd).st_blocks * 512)

    monkeypatch.setattr(os, "posix_fallocate", watch)
    segment = Segment.create(3 << 20)
    assert blocks == [3 << 20]
    assert not any(segment.buf)
    segment.close()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.ENOSPC,
            "38.0 MiB of shared memory are needed, /dev/shm has 8.0 MiB free: 30.0 MiB are missing",
        ),
        (errno.ENOMEM, "38.0 MiB of shared memory are needed: Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_an_error_at_once_that_says_how_much_is_missing(
    monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(*_args: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    monkeypatch.setattr(
        segments.os, "fstatvfs", lambda _fd: SimpleNamespace(f_bavail=2048, f_frsize=4096), raising=False
    )
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SegmentError) as refused:
        Segment.create(38 << 20)
    assert str(refused.value) == words
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_second_daemon_finds_memory_where_the_file_system_has_room_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reserve = os.posix_fallocate
    calls: list[int] = []

    def refuse_once(fd: int, offset: int, length: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", refuse_once)
    before = len(os.listdir("/proc/self/fd"))
    segment = Segment.create(1 << 20, anywhere=True)
    assert len(calls) == 2
    assert len(segment.buf) == 1 << 20
    assert not any(segment.buf)
    segment.close()
    # The mapping has no descriptor of its own open, apart from that which mmap keeps while it lives.
    assert len(os.listdir("/proc/self/fd")) == before
