"""Links of one peer are one guest's."""

from pipeline.stages.ingress import guests
from pipeline.stages.ingress.guests import GuestNumbers


def test_links_of_one_peer_have_one_number() -> None:
    numbers = GuestNumbers()
    first = numbers.add_link("process 7")
    assert numbers.add_link("process 7") == first
    assert numbers.add_link("process 8") != first
    assert numbers.links(first) == 2
    assert len(numbers) == 2


def test_links_of_unknown_peers_are_guests_of_their_own() -> None:
    numbers = GuestNumbers()
    assert numbers.add_link("") != numbers.add_link("")


def test_a_guest_keeps_its_number_until_its_last_link_is_over() -> None:
    numbers = GuestNumbers()
    first = numbers.add_link("machine 3")
    numbers.add_link("machine 3")
    numbers.remove_link(first)
    assert numbers.add_link("machine 3") == first
    numbers.remove_link(first)
    numbers.remove_link(first)
    assert len(numbers) == 0
    assert numbers.links(first) == 0
    assert numbers.add_link("machine 3") != first


def test_a_number_in_use_is_not_given_again() -> None:
    numbers = GuestNumbers()
    kept = numbers.add_link("machine 3")
    for _ in range(guests.MAX_NUMBER):
        other = numbers.add_link("")
        assert other != kept
        numbers.remove_link(other)
