"""Which connection of the API makes room for another."""

from pipeline.control.http.seats import Seat, Seats


def seats(*owners: str, count: int = 4) -> tuple[Seats, list[Seat]]:
    """These connections, the oldest first."""
    made = Seats(count)
    taken = [Seat(owner, 0, lambda: None) for owner in owners]
    for seat in taken:
        made.add(seat)
    return made, taken


def busy(*taken: Seat) -> None:
    for seat in taken:
        seat.is_busy = lambda: True


def test_the_oldest_idle_one_of_the_owner_with_most_goes() -> None:
    made, (_, one, two, three) = seats("b", "a", "a", "a")
    busy(one)
    assert made.make_room("c") is two
    assert len(made) == 3
    made.remove(two)
    assert len(made) == 3, "it was removed already"
    assert three in made._by_owner["a"]


def test_an_owner_with_most_pays_itself() -> None:
    made, (_, one, _, _) = seats("b", "a", "a", "a")
    assert made.make_room("a") is one


def test_an_owner_loses_nothing_to_one_with_as_many() -> None:
    made, (_, _, mine, _) = seats("a", "a", "b", "b")
    assert made.make_room("b") is mine


def test_a_busy_one_goes_only_for_an_owner_below_its_share() -> None:
    made, taken = seats("a", "a", "a", "b")
    busy(*taken)
    assert made.make_room("b") is taken[0]
    made.add(taken[0])
    assert made.make_room("a") is None


def test_without_any_owner_there_is_nothing_to_end() -> None:
    assert Seats(0).make_room("a") is None
