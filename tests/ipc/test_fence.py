"""The fence: its effect on memory is what test_ring_stress.py and test_wake.py watch."""

import os

import pytest

from pipeline.ipc import fence
from pipeline.ipc.fence import full_fence


def test_it_returns_at_once_however_often_it_is_called() -> None:
    for _ in range(1000):
        full_fence()


def test_it_works_in_a_forked_process() -> None:
    full_fence()
    pid = os.fork()
    if pid == 0:
        full_fence()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_where_a_lock_is_an_acquire_and_a_release_it_is_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(fence, "_acquire", lambda: steps.append("acquire"))
    monkeypatch.setattr(fence, "_release", lambda: steps.append("release"))
    fence._twice()
    assert steps[1:3] == ["release", "acquire"]
    assert len(steps) == 4
    steps.clear()
    full_fence()
    assert len(steps) == (2 if fence.ORDERED else 4)
