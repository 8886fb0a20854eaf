"""The state of another process."""

import os
import signal
import subprocess
import sys

import pytest

from pipeline.system.process_state import RUNNABLE, started_at, state_of
from tests.support.netns import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells")


def test_a_process_that_works_is_runnable_and_uses_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        wait_for(lambda: (found := state_of(process.pid)) and found.letter == RUNNABLE, "work")
        wait_for(lambda: (found := state_of(process.pid)) and found.seconds > 0.05, "time", 20)
        os.kill(process.pid, signal.SIGSTOP)
        wait_for(lambda: (found := state_of(process.pid)) and found.letter == "T", "the stop")
    finally:
        process.kill()
        process.wait()
    assert state_of(process.pid) is None


def test_a_process_has_one_start_and_a_later_one_has_another() -> None:
    mine = started_at(os.getpid())
    assert mine == started_at(os.getpid()) > 0
    with subprocess.Popen(["sleep", "60"]) as later:
        assert started_at(later.pid) >= mine
        later.kill()
    assert started_at(later.pid) == 0, "it is gone"
