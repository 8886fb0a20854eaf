"""Signals at random moments of start, run, restart and stop: the daemon goes on, or ends in order.

SIGNAL_SEED is the seed, and SIGNAL_ROUNDS the number of rounds. A failure names the seed and the round, which
repeats the same signals after the same delays. The moments differ a little, as processes do.
"""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import new_shared_memory, shared_memory, wait_for

SEED: Final = int(os.environ.get("SIGNAL_SEED", "0"))
ROUNDS: Final = int(os.environ.get("SIGNAL_ROUNDS", "3"))
PHASES: Final = ("start", "run", "restart", "stop")
TO_ALL: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a terminal, a shell or a manager of services sends to all processes of a daemon."""
NUMBERS: Final = (*TO_ALL, signal.SIGUSR1, signal.SIGUSR2)
LONGEST_S: Final = {"start": 0.6, "run": 0.1, "restart": 0.9, "stop": 0.2}
"""Seconds within which the signals of a phase come."""
ENDED: Final = 30.0
REFUSED: Final = "not restarted: nothing has changed"


class Round:
    """One daemon and its signals. It reloads with SIGHUP if it has a file."""

    def __init__(self, directory: Path, phase: str, rng: random.Random) -> None:
        self.phase = phase
        self.reloads = rng.random() < 0.5
        self.ends = {signal.SIGINT, signal.SIGTERM} | (set() if self.reloads else {signal.SIGHUP})
        self.steps = [
            (rng.uniform(0, LONGEST_S[phase]), rng.choice(NUMBERS), rng.random() < 0.3)
            for _ in range(rng.randrange(1, 7))
        ]
        self.steps.sort(key=lambda step: step[0])
        directory.mkdir()
        self.pid_file = directory / "pid"
        flags = ["-pid-file", str(self.pid_file), "-log-file", str(directory / "log")]
        if self.reloads:
            config = directory / "config.yaml"
            config.write_text("log-level: info\n")
            flags += ["-config", str(config)]
        self.daemon = LoneDaemon(directory, *flags, fresh=True, start_new_session=True)
        self.log_path = directory / "log"

    def run(self) -> None:
        """Start it, send the signals, and look at what is left."""
        before = shared_memory()
        self.daemon.start()
        try:
            # The file is the daemon's first trace. From then on it has handlers.
            wait_for(self._has_pid, "the pid", ENDED, 0.001)
            if self.phase != "start":
                self.daemon.wait_until_ready()
            self._begin_phase()
            ends = self._send()
            if not ends:
                self._goes_on()
                self.daemon.process.terminate()
            assert self.daemon.process.wait(ENDED) == 0, "status"
            self._look_at_log()
            assert not self.pid_file.exists(), "the pid file is left"
            assert not self.daemon.socket.exists(), "a socket is left"
            wait_for(self._group_is_gone, "all processes have ended", 5)
            assert not new_shared_memory(before), "shared memory is left"
        finally:
            if not self._group_is_gone():
                os.killpg(self.daemon.process.pid, signal.SIGKILL)
            self.daemon.kill()

    def _begin_phase(self) -> None:
        if self.phase == "restart":
            self.daemon.process.send_signal(signal.SIGUSR2)
        elif self.phase == "stop":
            self.daemon.process.terminate()

    def _send(self) -> bool:
        """Send the signals. Returns whether one of them ends the daemon."""
        began = time.monotonic()
        ends = self.phase == "stop"
        for delay, number, to_all in self.steps:
            time.sleep(max(0.0, began + delay - time.monotonic()))
            if self.daemon.process.poll() is not None:
                return True
            if to_all and number in TO_ALL:
                os.killpg(self.daemon.process.pid, number)
            else:
                self.daemon.process.send_signal(number)
            ends = ends or number in self.ends
        return ends

    def _goes_on(self) -> None:
        """It serves, and every restart that it began has an end."""
        self.daemon.wait_until_ready()

        def settled() -> bool:
            events = [line["event"] for line in self.lines()]
            ends = events.count(REFUSED) + events.count("restarted: a successor goes on")
            return events.count("restart begins") == ends

        wait_for(settled, "no restart is under way", ENDED)
        self.daemon.wait_until_ready()

    def lines(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        if not self.log_path.exists():
            return []
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def _look_at_log(self) -> None:
        text = self.daemon.errors() + self.log_path.read_text()
        for word in ("Traceback", "Exception ignored", "never retrieved"):
            assert word not in text, text
        bad = [line for line in self.lines() if line["level"] in ("error", "critical")]
        assert not [line for line in bad if line["event"] != REFUSED], bad

    def _has_pid(self) -> bool:
        assert self.daemon.process.poll() is None, self.daemon.errors()
        return self.pid_file.exists() and bool(self.pid_file.read_text())

    def _group_is_gone(self) -> bool:
        try:
            os.killpg(self.daemon.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.timeout(120 + 60 * ROUNDS)
def test_signals_at_any_moment_end_the_daemon_in_order_or_it_goes_on(tmp_path: Path, phase: str) -> None:
    # Children hear of SIGHUP and SIGINT even if the tests run under nohup or in the background.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        for number in range(ROUNDS):
            one = Round(tmp_path / str(number), phase, random.Random(f"{SEED} {phase} {number}"))
            try:
                one.run()
            except AssertionError as error:
                words = f"SIGNAL_SEED={SEED}, {phase}, round {number}, reloads: {one.reloads}, {one.steps}"
                text = one.log_path.read_text() if one.log_path.exists() else ""
                raise AssertionError(f"{words}: {error}\n{one.daemon.errors()}{text}") from error
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
