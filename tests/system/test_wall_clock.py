"""Whether the wall clock was set back."""

from pipeline.system.wall_clock import WallClock


def test_only_a_clock_that_is_set_back_counts_and_only_once() -> None:
    times = [1000.0, 5.0]
    clock = WallClock(lambda: times[0], lambda: times[1])
    assert not clock.was_set_back()
    for wall, steady, expected in (
        (1001.0, 6.0, False),
        (5000.0, 7.0, False),  # set forward, or the machine was suspended
        (4999.99, 7.0, False),
        (4000.0, 8.0, True),
        (4001.0, 9.0, False),
        (4001.5, 10.0, True),  # by half a second
    ):
        times[:] = wall, steady
        assert clock.was_set_back() is expected, wall
