"""The fence: its effect on memory is what test_ring_stress.py and test_wake.py watch."""

import os

from pipeline.shm.fence import full_fence


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
