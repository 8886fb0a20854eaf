"""The old supervisor's part of a restart: when it begins none, and which signals a successor gets."""

import asyncio
import signal
import subprocess
import sys
from typing import Any

import pytest
import structlog

from pipeline.control.restart_error import RestartError
from pipeline.daemon import restart
from pipeline.daemon.restart import Restarter
from pipeline.system.service_manager import ServiceManager

UNHEARD = """
import os, signal, subprocess, sys
from pipeline.daemon import lifetime, supervisor
from pipeline.daemon.restart import Replacement
from pipeline.daemon.signals import Signals

successor = subprocess.Popen(["sleep", "60"])

class Ending(supervisor.Supervisor):
    def __init__(self, *_):
        self.signals = Signals()
        self.successor = Replacement(successor.pid, None)

    def start(self):
        pass

    async def watch(self):
        # No event loop reads it any more.
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    def release(self):
        self.signals.close()

lifetime.supervisor.Supervisor = Ending
lifetime.run(None, None, "1")
try:
    print(successor.wait(5))
finally:
    successor.kill()
"""

WAITING = """
import os, signal
from pipeline.daemon.signals import Signals, handled

made = Signals()
signal.pthread_sigmask(signal.SIG_BLOCK, handled())
os.kill(os.getpid(), signal.SIGTERM)
made.close(ignore=False)
print(sorted(signal.sigpending()))
"""


def test_no_restart_begins_while_the_program_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    def heir(environment: object) -> Any:
        started.append(environment)
        raise OSError("no process")

    monkeypatch.setattr(restart, "Heir", heir)

    async def run() -> None:
        nothing: Any = None
        manager = ServiceManager({}, 1)
        log = structlog.get_logger()
        restarter = Restarter(nothing, nothing, nothing, manager, None, lambda _: None, log)
        with pytest.raises(RestartError, match="no process"):
            await restarter.restart()
        await restarter.stop()
        with pytest.raises(RestartError, match="the program ends"):
            await restarter.restart()
        restarter.request()
        await asyncio.sleep(0)
        assert len(started) == 1

    asyncio.run(run())


def test_a_signal_after_the_last_look_reaches_the_successor() -> None:
    assert run_script(UNHEARD) == [str(-signal.SIGTERM)]


def test_a_signal_after_that_waits_for_the_minder() -> None:
    assert run_script(WAITING) == ["[<Signals.SIGTERM: 15>]"]


def run_script(script: str) -> list[str]:
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()
