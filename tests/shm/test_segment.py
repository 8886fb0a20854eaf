"""Segments: zero memory, shared by fork, no name left."""

import os

import pytest

from pipeline.shm.segment import Segment


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
