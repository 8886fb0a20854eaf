"""The state of another process."""

import os
import signal
import subprocess
import sys

import pytest

from pipeline.system.process_state import RUNNABLE, state_of
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
