"""Who gets an address that another station claims."""

import pytest

from pipeline.engines.neighbors.actions import Changed, Contested, Learned, Lost, Request
from pipeline.engines.neighbors.addresses import GuestAddresses
from pipeline.engines.neighbors.entry import CONTEST_PAUSE, CONTEST_SECONDS, HOLD_SECONDS
from pipeline.engines.neighbors.table import CONTESTS_PER_SECOND, MAX_PENDING_ADDRS, Neighbors
from pipeline.wire import arp, ethernet, ip
from pipeline.wire.errors import WireError
from tests.engines.neighbors.tables import (
    GATEWAY,
    GATEWAY_MAC,
    HOST,
    INF,
    NETWORK,
    ONE,
    TWO,
    A,
    B,
    refused,
    table,
    with_one,
)

C = bytes.fromhex("5a94efe40cf0")

# --- contests ---------------------------------------------------------------------------


def test_an_address_cannot_be_taken_while_its_owner_answers() -> None:
    known = with_one()
    assert refused(known, ONE, B, 1, 5.0) == "address_taken"
    assert known.take_actions() == [Contested(ONE, A, B, 1), Request(ONE, A, 0)]
    known.learn(ONE, A, 0, 5.5)
    assert refused(known, ONE, B, 1, 6.0) == "address_taken"
    known.on_timer(20.0)
    assert known.take_actions() == []
    assert known.snapshot() == {ONE: (A, 0)}


def test_a_guest_that_changes_the_mac_of_its_own_link_is_believed_at_once() -> None:
    known = with_one()
    known.learn(ONE, B, 0, 0.1)
    assert known.take_actions() == [Changed(ONE, B, 0)]
    known.on_arp(arp.Arp(arp.REPLY, A, ONE, ethernet.BROADCAST, ONE), A, 0, 0.2)
    assert known.take_actions() == [Changed(ONE, A, 0)]
    assert known.snapshot() == {ONE: (A, 0)}
    assert known.deadline() == INF
    known.forget_link(0)
    assert known.snapshot() == {}


def test_a_virtual_mac_of_a_guest_takes_its_other_address_at_once() -> None:
    virtual = bytes.fromhex("00005e000107")
    known = with_one()
    known.learn(TWO, A, 0, 0.0)
    known.learn(TWO, virtual, 0, 0.1)
    assert known.snapshot() == {ONE: (A, 0), TWO: (virtual, 0)}


def test_a_guest_with_a_full_part_of_the_table_may_change_its_mac() -> None:
    known = table(max_per_guest=1)
    known.learn(ONE, A, 0, 0.0)
    known.learn(ONE, B, 0, 0.1)
    assert known.snapshot() == {ONE: (B, 0)}


def test_a_new_mac_of_the_owners_link_is_a_sign_of_life_in_a_contest() -> None:
    known = with_one()
    refused(known, ONE, B, 1, 5.0)
    other = bytes.fromhex("5a94efe40cf0")
    known.learn(ONE, other, 0, 5.5)
    known.on_timer(7.0)
    assert known.snapshot() == {ONE: (other, 0)}
    assert known.deadline() == INF


def test_an_address_whose_owner_is_silent_for_a_second_is_the_claimants_of_another_link() -> None:
    known = with_one()
    refused(known, ONE, B, 1, 5.0)
    assert known.deadline() == 5.5
    known.on_timer(5.5)
    assert refused(known, ONE, B, 1, 5.9) == "address_taken"
    assert known.deadline() == 6.0
    known.on_timer(6.0)
    probe = Request(ONE, A, 0)
    assert known.take_actions() == [Contested(ONE, A, B, 1), probe, probe, Learned(ONE, B, 1)]
    assert known.snapshot() == {ONE: (B, 1)}
    assert known.deadline() == INF


def test_a_claim_after_the_second_is_believed_before_the_timer_was_looked_at() -> None:
    known = with_one()
    refused(known, ONE, B, 1, 5.0)
    known.learn(ONE, B, 1, 5.0 + CONTEST_SECONDS)
    assert known.snapshot() == {ONE: (B, 1)}


def test_a_contested_address_is_the_claimants_when_the_owners_link_goes_down() -> None:
    known = with_one()
    refused(known, ONE, B, 1, 5.0)
    known.take_actions()
    known.forget_link(0)
    assert known.take_actions() == [Learned(ONE, B, 1)]
    assert known.snapshot() == {ONE: (B, 1)}


def test_a_silent_owner_keeps_its_address_when_the_claimants_link_goes_down() -> None:
    known = with_one()
    refused(known, ONE, B, 1, 5.0)
    known.forget_link(1)
    known.on_timer(5.5)
    known.on_timer(6.0)
    assert known.snapshot() == {ONE: (A, 0)}
    assert known.deadline() == INF


def test_an_address_that_has_just_changed_hands_is_not_contested_back_at_once() -> None:
    known = with_one()
    refused(known, ONE, B, 1, 5.0)
    known.learn(ONE, B, 1, 6.0)
    known.take_actions()
    refused(known, ONE, A, 0, 6.1)
    assert known.take_actions() == []
    refused(known, ONE, A, 0, 5.0 + CONTEST_PAUSE)
    assert known.take_actions() == [Request(ONE, B, 1)]


def test_a_claimant_that_has_no_room_for_it_leaves_a_lost_address_to_nobody() -> None:
    known = table(max_per_guest=1)
    known.learn(ONE, A, 0, 5.0)
    known.learn(TWO, B, 1, 5.0)
    refused(known, ONE, B, 1, 5.0)
    known.on_timer(5.5)
    known.on_timer(6.0)
    assert known.snapshot() == {TWO: (B, 1)}


def test_a_guest_that_claims_many_addresses_causes_few_questions() -> None:
    known = Neighbors(GuestAddresses(ip.parse_ipv4("10.0.0.0"), 16), GATEWAY_MAC)
    first = ip.parse_ipv4("10.0.1.0")
    for n in range(250):
        known.learn(first + n, A, 0, 0.0)
    known.take_actions()
    for n in range(250):
        refused(known, first + n, B, 1, 1.0)
    actions = known.take_actions()
    assert sum(isinstance(action, Request) for action in actions) == CONTESTS_PER_SECOND
    assert sum(isinstance(action, Contested) for action in actions) == CONTESTS_PER_SECOND
    for n in range(250):
        known.learn(first + n, A, 0, 1.1)
    known.on_timer(3.0)
    assert set(known.snapshot().values()) == {(A, 0)}
    refused(known, first, bytes.fromhex("5a94efe40cf0"), 2, 3.5)
    assert Request(first, A, 0) in known.take_actions(), "another link has a share of its own"


def test_a_claimant_that_keeps_claiming_causes_one_event_in_an_interval_and_few_questions() -> None:
    known = with_one()
    actions = []
    for tick in range(1000):
        now = 5.0 + tick / 50
        refused(known, ONE, B, 1, now)
        for action in known.take_actions():
            actions.append(action)
            if isinstance(action, Request):
                known.learn(ONE, A, 0, now)
    assert [action for action in actions if isinstance(action, Contested)] == [Contested(ONE, A, B, 1)] * 2
    assert 20 / CONTEST_PAUSE - 1 <= len(actions) - 2 <= 20 / CONTEST_PAUSE + 1


@pytest.mark.parametrize("where", [None, 0])
def test_the_owners_mac_on_another_link_takes_no_address_unless_the_switch_moved_it(
    where: int | None,
) -> None:
    known = Neighbors(GuestAddresses(NETWORK, 24, (GATEWAY,)), GATEWAY_MAC, link_of=lambda _: where)
    known.learn(ONE, A, 0, 0.0)
    known.take_actions()
    assert refused(known, ONE, A, 1, 5.0) == "address_taken"
    assert known.take_actions() == [Contested(ONE, A, A, 1), Request(ONE, A, 0)]
    known.learn(ONE, A, 0, 5.5)
    known.on_timer(7.0)
    assert known.snapshot() == {ONE: (A, 0)}
    refused(known, ONE, A, 1, 8.0)
    for now in (8.5, 9.0):
        known.on_timer(now)
    assert known.snapshot() == {ONE: (A, 1)}, "it was silent"


def test_an_address_follows_a_mac_that_the_switch_moved() -> None:
    known = Neighbors(GuestAddresses(NETWORK, 24, (GATEWAY,)), GATEWAY_MAC, link_of=lambda _: 1)
    known.learn(ONE, A, 0, 0.0)
    known.learn(ONE, A, 1, 5.0)
    assert known.snapshot() == {ONE: (A, 1)}


def test_a_station_is_asked_for_some_of_its_addresses() -> None:
    known = with_one()
    for n in range(10):
        known.learn(TWO + n, A, 0, 0.0)
    known.learn(TWO + 20, B, 1, 0.0)
    known.take_actions()
    assert known.ask_station(A, 0)
    assert known.take_actions() == [Request(addr, A, 0) for addr in (ONE, TWO, TWO + 1, TWO + 2)]
    assert not known.ask_station(A, 1)
    assert not known.ask_station(B, 0)
    assert known.take_actions() == []


def test_the_station_of_a_link_that_went_leaves_its_address_free_at_once() -> None:
    known = with_one()
    known.forget_link(0)
    assert known.take_actions() == [Lost(ONE)]
    known.learn(ONE, B, 1, 0.1)
    assert known.snapshot() == {ONE: (B, 1)}


# --- addresses held for the owner of an earlier run --------------------------------------------


def with_held() -> Neighbors:
    known = table()
    known.hold(ONE, A, 0.0)
    return known


def test_a_held_address_is_its_owners_who_need_not_come_first() -> None:
    known = with_held()
    assert refused(known, ONE, B, 1, 1.0) == "address_taken"
    assert known.take_actions() == [Contested(ONE, A, B, 1), Request(ONE)]
    assert known.resolve(ONE, 1.1, "dial") is None
    assert refused(known, ONE, B, 1, 1.2) == "address_taken", "its answer to the question counts no more"
    assert known.snapshot() == {}
    known.learn(ONE, A, 0, 1.3)
    known.on_timer(10.0)
    assert known.take_actions() == [Learned(ONE, A, 0, ("dial",))]
    assert known.snapshot() == {ONE: (A, 0)}


def test_a_caller_waits_for_a_held_address_as_long_as_for_any_other() -> None:
    known = with_held()
    refused(known, ONE, B, 1, 1.0)
    known.on_timer(1.5)
    assert known.resolve(ONE, 1.6, "dial") is None
    known.take_actions()
    # The two requests of the contest came before the owner's link was back.
    known.on_timer(2.0)
    assert known.take_actions() == [Request(ONE)]
    known.learn(ONE, A, 0, 2.1)
    assert known.take_actions() == [Learned(ONE, A, 0, ("dial",))]


def test_a_held_address_is_kept_while_its_owner_may_be_on_the_way() -> None:
    known = with_held()
    for tick in range(int(HOLD_SECONDS) * 4):
        now = tick / 4
        known.on_timer(now)
        assert refused(known, ONE, B, 1, now) == "address_taken"
    contested = [action for action in known.take_actions() if isinstance(action, Contested)]
    assert contested == [Contested(ONE, A, B, 1)]


def test_a_held_address_whose_owner_was_asked_for_in_vain_goes_to_who_claims_it() -> None:
    known = with_held()
    late = HOLD_SECONDS + 100
    assert refused(known, ONE, B, 1, late) == "address_taken"
    for at in (late + 0.5, late + 1.0):
        assert known.deadline() == at
        known.on_timer(at)
    request = Request(ONE)
    assert known.take_actions() == [Contested(ONE, A, B, 1), request, request, Lost(ONE)]
    known.learn(ONE, B, 1, late + 1.1)
    assert known.snapshot() == {ONE: (B, 1)}


def test_a_question_that_nobody_contests_takes_a_held_address_from_nobody() -> None:
    known = with_held()
    late = HOLD_SECONDS + 100
    known.resolve(ONE, late, "dial")
    for second in (1, 2, 3):
        known.on_timer(late + second)
    assert refused(known, ONE, B, 1, late + 4) == "address_taken"


def test_the_owner_of_a_held_address_has_it_by_using_it_and_keeps_it_like_any_other() -> None:
    known = with_held()
    known.learn(ONE, A, 0, 1.0)
    known.hold(ONE, B, 1.5)
    known.forget_link(0)
    known.learn(ONE, B, 1, 2.0)
    assert known.snapshot() == {ONE: (B, 1)}


def test_a_held_address_is_its_owners_links_whatever_the_mac() -> None:
    known = with_held()
    known.learn(TWO, A, 0, 1.0)
    known.learn(ONE, B, 0, 2.0)
    assert known.snapshot() == {TWO: (A, 0), ONE: (B, 0)}


def test_an_address_that_was_given_to_somebody_else_is_held_no_more() -> None:
    known = with_held()
    known.unhold(ONE, A)
    assert refused(known, ONE, B, 1, 1.0) == "address_taken"
    known.unhold(ONE, B)
    known.learn(ONE, B, 1, 2.0)
    assert known.snapshot() == {ONE: (B, 1)}


@pytest.mark.parametrize("addr", [GATEWAY, HOST, NETWORK, NETWORK + 255, NETWORK + 300])
def test_an_address_that_is_no_guests_is_not_held(addr: int) -> None:
    known = table()
    known.hold(addr, A, 0.0)
    assert refused(known, addr, B, 1, 1.0) in ("gateway_address", "outside_subnet")
    assert not [action for action in known.take_actions() if isinstance(action, Request)]


def test_claims_of_held_addresses_leave_room_for_other_questions() -> None:
    known = table()
    for number in range(2, 250):
        known.hold(NETWORK + number, A, 0.0)
    for number in range(2, 250):
        refused(known, NETWORK + number, B, number // 10, 1.0)
    asked = [action for action in known.take_actions() if isinstance(action, Request)]
    assert len(asked) == MAX_PENDING_ADDRS // 2
    assert known.resolve(NETWORK + 251, 1.5, "dial") is None
    assert known.take_actions() == [Request(NETWORK + 251)]


# --- what other guests have not heard ------------------------------------------------------


@pytest.mark.parametrize("claims", ["a", "ap", "pa", "p"])
def test_only_a_claim_by_arp_is_announced_when_the_address_moves(claims: str) -> None:
    known = with_one()
    known.learn(TWO, B, 1, 40.0)
    for number, claim in enumerate(claims):
        with pytest.raises(WireError):
            known.learn(ONE, B, 1, 50.0 + number / 10, by_arp=claim == "a")
    # Another station's ARP changes nothing about the claimant's.
    with pytest.raises(WireError):
        known.learn(ONE, C, 2, 50.2, by_arp=True)
    known.on_timer(50.6)
    known.on_timer(51.2)
    (learned,) = [
        action for action in known.take_actions() if action == Learned(ONE, B, 1, (), "a" in claims)
    ]
    assert isinstance(learned, Learned)
    # A later contest begins anew.
    with pytest.raises(WireError):
        known.learn(ONE, A, 0, 60.0)
    known.forget_link(1)
    assert Learned(ONE, A, 0) in known.take_actions()


# --- without contests -------------------------------------------------------------------


def test_where_the_newest_wins_the_address_moves_between_links_at_once() -> None:
    known = table(newest_wins=True)
    known.learn(ONE, A, 0, 1.0)
    known.take_actions()
    for number in range(4):
        link = 1 - number % 2
        known.learn(ONE, B if link else A, link, 1.0)
        assert known.snapshot() == {ONE: (B if link else A, link)}
    # One that may be reported late: a guest causes one with each packet.
    assert {type(action) for action in known.take_actions()} == {Changed}
    known.forget_link(0)
    assert len(known) == 0
    assert known.deadline() == float("inf")


def test_where_the_newest_wins_nothing_is_held() -> None:
    known = table(newest_wins=True)
    known.hold(ONE, A, 0.0)
    known.learn(ONE, B, 1, 0.0)
    assert known.snapshot() == {ONE: (B, 1)}


def test_where_the_newest_wins_links_keep_their_bounds_and_the_gateway_its_addresses() -> None:
    known = table(newest_wins=True, max_per_guest=1)
    known.learn(ONE, A, 0, 0.0)
    known.learn(TWO, B, 1, 0.0)
    assert refused(known, ONE, B, 1, 1.0) == "table_full"
    assert refused(known, GATEWAY, B, 1, 1.0) == "gateway_address"
    assert known.snapshot() == {ONE: (A, 0), TWO: (B, 1)}


def test_where_the_first_keeps_it_a_silent_owner_has_its_address_until_its_link_is_down() -> None:
    known = table(first_keeps=True)
    known.learn(ONE, A, 0, 0.0)
    known.take_actions()
    for now in (5.0, 6.1, 600.0):
        assert refused(known, ONE, B, 1, now) == "address_taken"
        known.on_timer(now)
    assert known.take_actions() == []
    assert known.deadline() == INF
    known.learn(ONE, C, 0, 601.0)
    assert known.snapshot() == {ONE: (C, 0)}, "its own link may change the MAC"
    known.forget_link(0)
    known.learn(ONE, B, 1, 602.0)
    assert known.snapshot() == {ONE: (B, 1)}


def test_where_the_first_keeps_it_nothing_is_held() -> None:
    known = table(first_keeps=True)
    known.hold(ONE, A, 0.0)
    known.learn(ONE, B, 1, 0.1)
    assert known.snapshot() == {ONE: (B, 1)}
