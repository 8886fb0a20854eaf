"""How long this process waited for a core."""

from pathlib import Path

import pytest

from pipeline.system import run_queue
from pipeline.system.run_queue import RunQueue


@pytest.mark.skipif(not Path(run_queue._FILE).exists(), reason="the system does not count it")
def test_waits_only_grow() -> None:
    queue = RunQueue()
    first = queue.waited()
    sum(range(10**6))
    second = queue.waited()
    queue.close()
    assert first is not None
    assert second is not None
    assert 0.0 <= first <= second


def test_a_system_that_counts_nothing_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_queue, "_FILE", str(tmp_path / "none"))
    queue = RunQueue()
    assert queue.waited() is None
    queue.close()


def test_a_file_of_another_shape_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "schedstat"
    path.write_text("1\n")
    monkeypatch.setattr(run_queue, "_FILE", str(path))
    queue = RunQueue()
    assert queue.waited() is None
    queue.close()
    assert queue.waited() is None
