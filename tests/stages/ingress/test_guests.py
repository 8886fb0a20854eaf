"""Links of one peer are one guest's."""

import pytest

from pipeline.stages.ingress import guests
from pipeline.stages.ingress.guests import GuestNumbers


@pytest.fixture
def numbers() -> GuestNumbers:
    return GuestNumbers()


def test_links_of_one_peer_have_one_number(numbers: GuestNumbers) -> None:
    first = numbers.add_link("process 7")
    assert numbers.add_link("process 7") == first
    assert numbers.add_link("process 8") != first
    assert len(numbers) == 2


def test_links_of_unknown_peers_are_guests_of_their_own(numbers: GuestNumbers) -> None:
    assert numbers.add_link("") != numbers.add_link("")


def test_a_peer_that_comes_back_soon_keeps_its_number(numbers: GuestNumbers) -> None:
    first = numbers.add_link("machine 3")
    numbers.remove_link(first, 10.0)
    assert len(numbers) == 0
    assert numbers.expire(10.0 + guests.KEPT_S - 1) == []
    assert numbers.add_link("machine 3") == first
    assert numbers.expire(100.0) == [], "it has a link again"
    numbers.remove_link(first, 100.0)
    assert numbers.expire(100.0 + guests.KEPT_S) == [first]
    assert numbers.add_link("machine 3") != first


def test_an_unknown_peer_is_gone_with_its_link(numbers: GuestNumbers) -> None:
    first = numbers.add_link("")
    numbers.remove_link(first, 10.0)
    assert numbers.expire(10.0) == [first]
    assert numbers.expire(10.0) == []


def test_a_number_in_use_is_not_given_again(numbers: GuestNumbers) -> None:
    kept = numbers.add_link("machine 3")
    for _ in range(guests.MAX_NUMBER):
        other = numbers.add_link("")
        assert other != kept
        numbers.remove_link(other, 0.0)
        numbers.expire(0.0)


def test_one_peer_cannot_take_all_links(numbers: GuestNumbers) -> None:
    now = opened = 0
    while not numbers.refusal("process 7", float(now)):
        numbers.add_link("process 7")
        opened += 1
        now += 1
    assert opened == guests.MAX_LINKS // 2
    assert numbers.refusal("process 7", float(now)) == guests.TOO_MANY
    for peer in range(8):
        for _ in range(guests.SURE_LINKS):
            assert not numbers.refusal(f"process {peer + 10}", 0.0)
            numbers.add_link(f"process {peer + 10}")
    assert numbers.refusal("process 99", 0.0) == guests.TOO_MANY, "all are taken"


def test_a_peer_that_reconnects_all_the_time_is_refused(numbers: GuestNumbers) -> None:
    accepted = 0
    for attempt in range(5000):
        now = attempt / 500
        numbers.expire(now)
        if not numbers.refusal("process 7", now):
            numbers.remove_link(numbers.add_link("process 7"), now)
            accepted += 1
    assert accepted == pytest.approx(10 * guests.LINKS_PER_SECOND + guests.LINKS_AT_ONCE, abs=2)
    assert numbers.refusal("process 7", 9.999) == guests.TOO_OFTEN
    assert numbers.refusal("process 8", 9.999) == ""
