"""Which guests were active lately."""

from pipeline.engines.activity import Activity

LASTS_S = 1.5


def test_activity_of_many_guests() -> None:
    activity = Activity(LASTS_S)
    assert not activity.has_others(10, 0.0)
    for now, guest in enumerate((10, 20, 10, 10)):
        activity.saw(guest, 0.1 * now)
    assert activity.has_others(10, 0.1 + LASTS_S - 0.01)
    assert not activity.has_others(10, 0.1 + LASTS_S)
    assert activity.has_others(20, 0.3 + LASTS_S - 0.01)
    assert activity.has_others(30, 0.3 + LASTS_S - 0.01)
    activity.saw(30, 5.0)
    assert activity.has_others(10, 5.1)
    assert not activity.has_others(30, 5.1)


def test_others_that_never_were_active_end_before_all_time() -> None:
    activity = Activity(LASTS_S)
    activity.saw(10, 5.0)
    assert activity.others_end_at(10) == float("-inf")
    assert activity.others_end_at(20) == 5.0 + LASTS_S
