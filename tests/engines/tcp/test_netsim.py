"""Two engines back to back over a seeded link in virtual time (see link.py for what it checks).

Whatever the link does, bytes arrive exactly once and in order, both sides close in order, and
every handle comes back. Where the link loses little, the cost is bounded too: neither sent
twice without need nor waited for without need.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engines.tcp.config import TcpConfig
from tests.engines.tcp.link import Host, Impairment, Sim

KILO = 1000
LINKS = {
    "clean": Impairment(),
    "loss 1%": Impairment(loss=0.01),
    "loss 5%": Impairment(loss=0.05),
    "loss 20%": Impairment(loss=0.2),
    "duplicates 20%": Impairment(duplicate=0.2),
    "reordering 20%": Impairment(reorder=0.2),
    "jitter": Impairment(jitter=0.004),
    "long and bad": Impairment(loss=0.02, duplicate=0.01, reorder=0.05, delay=0.05, jitter=0.01),
    "1% of all": Impairment(loss=0.01, duplicate=0.01, reorder=0.01, jitter=0.0005),
    "5% of all": Impairment(loss=0.05, duplicate=0.05, reorder=0.05, jitter=0.0005),
    "20% of all": Impairment(loss=0.2, duplicate=0.2, reorder=0.2, jitter=0.0005),
}
CONFIGS = {
    "default": TcpConfig(),
    "newreno": TcpConfig(congestion="newreno"),
    "no sack": TcpConfig(sack=False),
    "no timestamps": TcpConfig(timestamps=False),
    "no scaling": TcpConfig(window_scaling=False),
    "nothing": TcpConfig(sack=False, timestamps=False, window_scaling=False),
    "tiny mss": TcpConfig(mtu=128),
    "jumbo": TcpConfig(mtu=65520),
    "tiny window": TcpConfig(initial_receive_window=2000, max_receive_window=2000),
    "nagle": TcpConfig(nagle=True),
    "tiny reassembly": TcpConfig(max_reassembly_bytes=6000, max_reassembly_ranges=3, max_sent_ranges=4),
}


def simulate(
    seed: int,
    link: Impairment,
    cfg_a: TcpConfig,
    cfg_b: TcpConfig,
    up: int,
    down: int,
    read_delay: tuple[float, float] = (0.0, 0.001),
    chunk: tuple[int, int] = (1, 65536),
) -> Sim:
    sim = Sim(
        seed,
        link,
        cfg_a,
        cfg_b,
        Host(to_send=up, read_delay=read_delay, chunk=chunk),
        Host(to_send=down, read_delay=read_delay, chunk=chunk),
    )
    sim.run()
    sim.check_transferred()
    return sim


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("link", LINKS)
def test_every_link_delivers_both_streams_once_and_in_order(link: str, seed: int) -> None:
    cfg = TcpConfig()
    simulate(seed, LINKS[link], cfg, cfg, 200 * KILO, 120 * KILO)


@pytest.mark.parametrize("link", ["clean", "5% of all", "20% of all"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_delivers_on_good_and_bad_links(name: str, link: str) -> None:
    small = name in ("tiny mss", "tiny window")
    size = 10 * KILO if small else 100 * KILO
    simulate(1, LINKS[link], CONFIGS[name], TcpConfig(), size, size)
    simulate(2, LINKS[link], TcpConfig(), CONFIGS[name], size, size)


@pytest.mark.parametrize("link", ["clean", "1% of all", "20% of all"])
def test_a_slow_reader_closes_the_window_and_still_gets_everything(link: str) -> None:
    cfg = TcpConfig(initial_receive_window=8000, max_receive_window=8000)
    sim = simulate(3, LINKS[link], cfg, cfg, 60 * KILO, 60 * KILO, read_delay=(0.05, 0.5))
    assert sim.done > 1000.0


@pytest.mark.parametrize("seed", range(3))
def test_single_bytes_from_the_host_each_in_its_own_handle(seed: int) -> None:
    simulate(seed, LINKS["5% of all"], TcpConfig(), TcpConfig(), 400, 300, chunk=(1, 1))


def test_one_direction_may_end_long_before_the_other() -> None:
    simulate(7, LINKS["5% of all"], TcpConfig(), TcpConfig(), 0, 300 * KILO)
    simulate(8, LINKS["5% of all"], TcpConfig(), TcpConfig(), 300 * KILO, 0)


def test_a_clean_link_costs_no_retransmission_and_little_time() -> None:
    sim = simulate(5, LINKS["clean"], TcpConfig(), TcpConfig(), 1000 * KILO, 0)
    assert sim.bytes_on_wire == 1000 * KILO
    assert sim.done - 1000 < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_duplicates_and_reordering_cause_few_retransmissions(seed: int) -> None:
    for link, bound in (("duplicates 20%", 1.0), ("reordering 20%", 1.15), ("jitter", 1.25)):
        sim = simulate(seed, LINKS[link], TcpConfig(), TcpConfig(), 500 * KILO, 0)
        assert sim.bytes_on_wire <= bound * 500 * KILO, link


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
def test_loss_is_repaired_without_sending_much_twice_or_waiting_for_timeouts(
    congestion: str, seed: int
) -> None:
    cfg = TcpConfig(congestion=congestion)  # type: ignore[arg-type]
    sim = simulate(seed, LINKS["loss 5%"], cfg, cfg, 1000 * KILO, 0)
    # Mathis et al.: 1.22 * MSS / (RTT * sqrt(p)) is 4 MB/s here; time-outs take 0.2 s each.
    assert sim.done - 1000 < 1.5
    assert sim.bytes_on_wire < 1.1 * 1000 * KILO


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1 << 32),
    loss=st.floats(0, 0.25),
    duplicate=st.floats(0, 0.3),
    reorder=st.floats(0, 0.5),
    delay=st.sampled_from([0.0, 0.0001, 0.01, 0.3]),
    jitter=st.sampled_from([0.0, 0.0002, 0.05]),
    cfg_a=st.sampled_from(sorted(CONFIGS)),
    cfg_b=st.sampled_from(sorted(CONFIGS)),
    up=st.integers(0, 12000),
    down=st.integers(0, 12000),
    chunk=st.sampled_from([(1, 1), (1, 3000), (1, 65536)]),
    read_delay=st.sampled_from([(0.0, 0.0), (0.0, 0.01), (0.1, 1.0)]),
)
def test_random_schedules_deliver_everything(
    seed: int,
    loss: float,
    duplicate: float,
    reorder: float,
    delay: float,
    jitter: float,
    cfg_a: str,
    cfg_b: str,
    up: int,
    down: int,
    chunk: tuple[int, int],
    read_delay: tuple[float, float],
) -> None:
    if chunk == (1, 1):
        up, down = up // 50, down // 50
    simulate(
        seed,
        Impairment(loss, duplicate, reorder, delay, jitter),
        CONFIGS[cfg_a],
        CONFIGS[cfg_b],
        up,
        down,
        read_delay,
        chunk,
    )
