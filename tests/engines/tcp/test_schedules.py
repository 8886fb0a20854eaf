"""Two engines back to back: seeded random schedules (see schedules.py), and a state machine that searches.

`make stress` plays 100,000 schedules (STRESS_SCHEDULES sets another number).
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.engines.tcp.seq import MASK
from tests.engines.tcp.link import End, Host, Impairment, Sim
from tests.engines.tcp.schedules import CONFIGS, run_parallel, run_range

BLOCKS = 8
SCHEDULES = 125
"""In each block: 1,000 in all without an environment variable."""


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_schedules(block: int) -> None:
    run_range(block * SCHEDULES, SCHEDULES)


@pytest.mark.stress
def test_many_random_schedules() -> None:
    run_parallel(BLOCKS * SCHEDULES, int(os.environ.get("STRESS_SCHEDULES", "100000")))


LONGEST_CUT = 23.0
"""Seconds of a schedule without a link, in all."""
PROBABILITY = st.sampled_from([0.0, 0.02, 0.2, 0.5])


class TwoEngines(RuleBasedStateMachine):
    """Any order of host calls, accidents of the link and time, from which both sides must find to the end.

    Every delivery is compared with the next bytes of the stream inside the link itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sim: Sim
        self.reset = False
        self.cut = 0.0

    @initialize(
        seed=st.integers(0, 1 << 32),
        a=st.sampled_from(CONFIGS),
        b=st.sampled_from(CONFIGS),
        delay=st.sampled_from([0.0, 0.001, 0.2]),
    )
    def open(self, seed: int, a: object, b: object, delay: float) -> None:
        hosts = [Host(ends=False), Host(ends=False)]
        self.sim = Sim(seed, Impairment(delay=delay), a, b, *hosts)  # type: ignore[arg-type]

    def _end(self, second: bool) -> End:
        return self.sim.b if second else self.sim.a

    @precondition(lambda self: not self.reset)
    @rule(second=st.booleans(), size=st.sampled_from([1, 100, 1460, 5000]))
    def write(self, second: bool, size: int) -> None:
        host = self._end(second).host
        if not host.ends and host.to_send < 20000:
            host.to_send += size
            self._end(second).pump()

    @rule(second=st.booleans())
    def end_half(self, second: bool) -> None:
        self._end(second).host.ends = True
        self._end(second).pump()

    @rule(
        loss=PROBABILITY,
        duplicate=PROBABILITY,
        reorder=PROBABILITY,
        corrupt=PROBABILITY,
        jitter=st.sampled_from([0.0, 0.01]),
    )
    def spoil(self, loss: float, duplicate: float, reorder: float, corrupt: float, jitter: float) -> None:
        delay = self.sim.impairment.delay
        self.sim.impairment = Impairment(loss, duplicate, reorder, delay, jitter, corrupt)

    @rule(seconds=st.sampled_from([0.1, 3.0, 20.0]))
    def cut_the_link(self, seconds: float) -> None:
        # Longer cuts could swallow all SYNs, which come for 63 s: then the connection rightly fails.
        if self.cut + seconds <= LONGEST_CUT:
            self.cut += seconds
            self.sim.down_until = max(self.sim.down_until, self.sim.now + seconds)

    @rule(second=st.booleans(), reads=st.booleans())
    def read_or_not(self, second: bool, reads: bool) -> None:
        end = self._end(second)
        if reads:
            end.resume()
            end.pump()
        else:
            end.host.reads = False

    @rule(second=st.booleans(), size=st.sampled_from([0, 500, 100_000]))
    def limit(self, second: bool, size: int) -> None:
        conn = self._end(second).conn
        if conn is not None:
            conn.set_receive_capacity(size, self.sim.now)
            self._end(second).pump()

    @rule(second=st.booleans(), mtu=st.sampled_from([128, 576, 1500]))
    def narrow(self, second: bool, mtu: int) -> None:
        conn = self._end(second).conn
        if conn is not None:
            conn.on_fragmentation_needed(conn.snd_una & MASK, mtu, self.sim.now)

    @precondition(lambda self: not self.reset)
    @rule(second=st.booleans(), sure=st.integers(0, 9))
    def abort(self, second: bool, sure: int) -> None:
        end = self._end(second)
        # Seldom, because nothing interesting follows.
        if sure == 0 and end.conn is not None and not end.over():
            self.reset = True
            end.abort()
            end.pump()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.05, 0.5, 10.0]))
    def wait(self, seconds: float) -> None:
        self.sim.advance(seconds)

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "sim"):
            self.sim.check_bounded()

    def teardown(self) -> None:
        """The link heals, the hosts read and end: everything must arrive and go."""
        if not hasattr(self, "sim"):
            return
        sim = self.sim
        sim.impairment = Impairment(delay=sim.impairment.delay)
        for end in (sim.a, sim.b):
            end.host.ends = True
            if end.conn is not None:
                end.conn.set_receive_capacity(100_000, sim.now)
            end.resume()
            end.pump()
        sim.run()
        if self.reset:
            sim.check_over()
        else:
            sim.check_transferred()


TwoEngines.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestTwoEngines = TwoEngines.TestCase
