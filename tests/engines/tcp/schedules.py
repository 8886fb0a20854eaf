"""Random schedules of two engines over a bad link, each a function of its seed.

python -m tests.engines.tcp.schedules [COUNT] [FIRST] runs COUNT of them on all processors and prints
the rate. A schedule draws the link, both configurations, sizes, speeds of the hosts and the accidents:
the link goes silent for a while, a host stops reading, both open at once, one side resets. Then bytes must
arrive exactly once and in order, both sides must end, every handle must come back, and
what was held must stay within its limits.
"""

import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from tests.engines.tcp.link import Host, Impairment, Sim

CONFIGS = (
    TcpConfig(),
    TcpConfig(congestion="newreno"),
    TcpConfig(sack=False),
    TcpConfig(timestamps=False),
    TcpConfig(window_scaling=False),
    TcpConfig(sack=False, timestamps=False, window_scaling=False),
    TcpConfig(mtu=128),
    TcpConfig(mtu=65520),
    TcpConfig(initial_receive_window=2000, max_receive_window=2000),
    TcpConfig(initial_receive_window=100, max_receive_window=400),
    TcpConfig(nagle=True),
    TcpConfig(max_reassembly_bytes=6000, max_reassembly_ranges=3, max_sent_ranges=4),
    TcpConfig(max_range_bytes=1500, initial_window_segments=2),
)
TINY_WINDOW = 400
MAX_UNOPENED = 0.02


def _host(rng: random.Random, small: bool) -> Host:
    size = rng.choice((0, 1, rng.randrange(300), rng.randrange(3000), rng.randrange(20000)))
    chunk = rng.choice(((1, 1), (1, 3000), (1, 65536)))
    if small or chunk == (1, 1):
        size %= 300
    return Host(to_send=size, chunk=chunk, read_delay=rng.choice(((0.0, 0.0), (0.0, 0.01), (0.05, 0.5))))


def unopened(sim: Sim) -> bool:
    """Whether one side gave up before both had opened: seven SYNs can be lost, and five SYN-ACKs."""
    hosts = sim.a.host, sim.b.host
    return any(host.timed_out for host in hosts) and not all(host.established for host in hosts)


def run_schedule(seed: int) -> Sim:
    """Play the schedule of this seed to its end; AssertionError if anything is not as it must be."""
    rng = random.Random(seed)
    link = Impairment(
        loss=rng.choice((0.0, 0.01, 0.05, 0.2 * rng.random())),
        duplicate=rng.choice((0.0, 0.05, 0.3 * rng.random())),
        reorder=rng.choice((0.0, 0.1, 0.5 * rng.random())),
        delay=rng.choice((0.0, 0.0001, 0.01, 0.3)),
        jitter=rng.choice((0.0, 0.0002, 0.05)),
        corrupt=rng.choice((0.0, 0.0, 0.02)),
    )
    configs = rng.choice(CONFIGS), rng.choice(CONFIGS)
    small = any(cfg.max_receive_window <= TINY_WINDOW for cfg in configs)
    sim = Sim(seed, link, *configs, _host(rng, small), _host(rng, small))
    accident = rng.choice(("none", "none", "silence", "no reader", "both open", "reset"))
    if accident == "both open":
        sim.b.conn = Connection.active(configs[1], sim.iss(), sim.now)
        sim.b.pump()
    when = rng.choice((0.0, 0.01, 0.1, rng.random() * 2))
    if accident == "reset":
        sim.at(sim.now + when, rng.choice((sim.a, sim.b)).abort, None)
    elif accident != "none":
        sim.run(until=when)
        if accident == "silence":
            sim.down_until = sim.now + rng.choice((0.1, 1.0, 30.0))
        elif accident == "no reader":
            end = rng.choice((sim.a, sim.b))
            end.host.reads = False
            sim.run(until=rng.choice((0.1, 5.0, 100.0)))
            end.resume()
            end.pump()
    sim.run()
    sim.check_bounded()
    if sim.a.host.aborts or sim.b.host.aborts or unopened(sim):
        sim.check_over()
    else:
        sim.check_transferred()
    return sim


def run_range(first: int, count: int) -> int:
    """count schedules; the frames they sent. The seed of one that fails is in its error."""
    frames = failed = 0
    for seed in range(first, first + count):
        try:
            sim = run_schedule(seed)
        except Exception as error:
            raise AssertionError(f"schedule {seed}: {type(error).__name__}: {error}") from error
        frames += sim.frames
        failed += unopened(sim)
    assert failed <= MAX_UNOPENED * count, f"{failed} of {count} connections did not open"
    return frames


def run_parallel(first: int, count: int, block: int = 250) -> int:
    """The same on all processors."""
    blocks = [(begin, min(block, first + count - begin)) for begin in range(first, first + count, block)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(run_range, *zip(*blocks, strict=True)))


def main() -> None:
    """See the module's docstring."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began = time.monotonic()
    frames = run_parallel(first, count)
    seconds = time.monotonic() - began
    print(f"{count} schedules, {frames} frames, {seconds:.1f} s, {count / seconds:.0f} schedules a second")


if __name__ == "__main__":
    main()
