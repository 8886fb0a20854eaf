"""Which guest has which address."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.neighbors import table as neighbors
from pipeline.engines.neighbors.actions import Changed, Contested, Learned, Lost, Request
from pipeline.engines.neighbors.addresses import GuestAddresses
from pipeline.engines.neighbors.entry import CONTEST_INTERVAL
from pipeline.engines.neighbors.table import Neighbors
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
from tests.support.fuzz import parsed

# --- learning ---------------------------------------------------------------------------


def test_a_packet_teaches_its_source_once() -> None:
    known = table()
    assert known.get(ONE) is None
    known.learn(ONE, A, 0, 1.0)
    known.learn(ONE, A, 0, 2.0)
    assert known.has_actions
    assert known.take_actions() == [Learned(ONE, A, 0)]
    assert not known.has_actions
    neighbor = known.get(ONE)
    assert neighbor is not None
    assert (neighbor.mac, neighbor.link) == (A, 0)
    assert known.snapshot() == {ONE: (A, 0)}
    assert known.deadline() == INF


@pytest.mark.parametrize(
    "addr, mac, reason",
    [
        (GATEWAY, A, "gateway_address"),
        (HOST, A, "gateway_address"),
        (NETWORK, A, "outside_subnet"),
        (NETWORK + 255, A, "outside_subnet"),
        (NETWORK - 1, A, "outside_subnet"),
        (0, A, "outside_subnet"),
        (ip.parse_ipv4("8.8.8.8"), A, "outside_subnet"),
        (ONE, GATEWAY_MAC, "bad_mac"),
        (ONE, ethernet.BROADCAST, "bad_mac"),
        (ONE, ethernet.ZERO, "bad_mac"),
        (ONE, bytes.fromhex("01005e000001"), "bad_mac"),
    ],
)
def test_impossible_claims_are_refused_and_change_nothing(addr: int, mac: bytes, reason: str) -> None:
    known = table()
    assert refused(known, addr, mac, 0, 1.0) == reason
    assert known.snapshot() == {}
    if reason != "gateway_address":
        assert known.take_actions() == []


def test_a_claim_of_the_gateways_addresses_is_contested_once_in_a_while() -> None:
    known = table()
    for now, expected in ((1.0, 1), (2.0, 0), (1.0 + CONTEST_INTERVAL, 1)):
        for addr in (GATEWAY, HOST):
            refused(known, addr, A, 0, now)
            assert known.take_actions() == [Contested(addr, GATEWAY_MAC, A, 0)] * expected


def test_the_same_station_behind_another_link_has_moved() -> None:
    known = with_one()
    known.learn(ONE, A, 3, 1.0)
    assert known.take_actions() == [Learned(ONE, A, 3)]
    known.forget_link(0)
    assert known.snapshot() == {ONE: (A, 3)}


def test_arp_teaches_its_sender_and_a_probe_teaches_nothing() -> None:
    known = table()
    known.on_arp(arp.Arp(arp.REQUEST, A, 0, ethernet.ZERO, ONE), A, 0, 1.0)
    assert known.snapshot() == {}
    known.on_arp(arp.Arp(arp.REQUEST, A, ONE, ethernet.ZERO, GATEWAY), A, 0, 1.0)
    known.on_arp(arp.Arp(arp.REPLY, B, TWO, GATEWAY_MAC, GATEWAY), B, 1, 1.0)
    assert known.snapshot() == {ONE: (A, 0), TWO: (B, 1)}


def test_arp_for_somebody_else_is_refused() -> None:
    with pytest.raises(WireError, match="arp_message_dropped_foreign_sender"):
        table().on_arp(arp.Arp(arp.REPLY, A, ONE, GATEWAY_MAC, GATEWAY), B, 0, 1.0)


def test_a_gratuitous_arp_for_the_gateways_address_is_refused() -> None:
    with pytest.raises(WireError, match="neighbor_claim_refused_gateway_address"):
        table().on_arp(arp.Arp(arp.REPLY, A, GATEWAY, ethernet.BROADCAST, GATEWAY), A, 0, 1.0)


# --- resolving --------------------------------------------------------------------------


def test_an_unknown_address_is_asked_for_three_times_a_second_apart_and_then_given_up() -> None:
    known = table()
    assert known.resolve(ONE, 10.0, "caller") is None
    assert known.resolve(ONE, 10.2, "other") is None
    assert known.take_actions() == [Request(ONE)]
    known.on_timer(10.9)
    assert known.take_actions() == []
    for now in (11.0, 12.0):
        assert known.deadline() == now
        known.on_timer(now)
        assert known.take_actions() == [Request(ONE)]
    known.on_timer(13.0)
    assert known.take_actions() == [Lost(ONE, ("caller", "other"))]
    assert known.deadline() == INF
    assert known.get(ONE) is None


@pytest.mark.parametrize("way", ["arp", "packet"])
def test_any_sign_of_life_wakes_those_who_wait(way: str) -> None:
    known = table()
    known.resolve(ONE, 0.0, "caller")
    known.resolve(ONE, 0.0)
    assert known.get(ONE) is None
    if way == "arp":
        known.on_arp(arp.Arp(arp.REPLY, A, ONE, GATEWAY_MAC, GATEWAY), A, 4, 0.5)
    else:
        known.learn(ONE, A, 4, 0.5)
    assert known.take_actions() == [Request(ONE), Learned(ONE, A, 4, ("caller",))]
    assert known.deadline() == 1.0  # set earlier, and nothing is due then
    known.on_timer(1.0)
    assert (known.take_actions(), known.deadline()) == ([], INF)


def test_a_fresh_neighbour_is_handed_out_without_a_question() -> None:
    known = with_one()
    neighbor = known.resolve(ONE, neighbors.REACHABLE_TIME - 1.0, "caller")
    assert neighbor is known.get(ONE) is not None
    assert known.take_actions() == []


def test_a_silent_neighbour_is_handed_out_and_asked_by_unicast() -> None:
    known = with_one()
    assert known.resolve(ONE, 100.0, "caller") is not None
    assert known.resolve(ONE, 100.1, "caller") is not None
    assert known.take_actions() == [Request(ONE, A, 0)]
    known.learn(ONE, A, 0, 100.2)
    known.on_timer(101.0)
    assert known.take_actions() == []


def test_a_silent_neighbour_nobody_contests_is_kept() -> None:
    known = with_one()
    known.resolve(ONE, 100.0)
    for now in (101.0, 102.0, 103.0):
        known.on_timer(now)
    assert known.take_actions() == [Request(ONE, A, 0)] * 3
    assert known.deadline() == INF
    assert known.snapshot() == {ONE: (A, 0)}
    assert known.resolve(ONE, 104.0) is not None
    assert known.take_actions() == [Request(ONE, A, 0)]


@pytest.mark.parametrize("addr", [GATEWAY, HOST, NETWORK, NETWORK + 255, ip.parse_ipv4("8.8.8.8")])
def test_an_address_that_is_no_guests_fails_at_once(addr: int) -> None:
    known = table()
    assert known.resolve(addr, 0.0, "caller") is None
    assert known.take_actions() == [Lost(addr, ("caller",))]
    assert known.deadline() == INF


def test_a_link_that_goes_fails_nobody_who_waits_for_another() -> None:
    known = with_one()
    known.resolve(TWO, 0.0, "caller")
    known.forget_link(0)
    assert known.take_actions() == [Request(TWO), Lost(ONE)]


# --- bounds -----------------------------------------------------------------------------


def test_callers_for_one_address_are_bounded() -> None:
    known = table()
    for token in range(neighbors.MAX_PENDING_PER_ADDR + 2):
        known.resolve(ONE, 0.0, token)
    assert known.take_actions() == [Request(ONE), Lost(ONE, (64,)), Lost(ONE, (65,))]


def test_addresses_being_asked_for_are_bounded() -> None:
    known = Neighbors(GuestAddresses(ip.parse_ipv4("10.0.0.0"), 16), GATEWAY_MAC)
    first = ip.parse_ipv4("10.0.1.0")
    for n in range(1000):
        known.resolve(first + n, 0.0, n)
    actions = known.take_actions()
    assert sum(isinstance(action, Request) for action in actions) == neighbors.MAX_PENDING_ADDRS
    assert sum(isinstance(action, Lost) for action in actions) == 1000 - neighbors.MAX_PENDING_ADDRS
    for now in (1.0, 2.0, 3.0):
        known.on_timer(now)
    assert known.deadline() == INF
    assert known.resolve(first, 4.0, "caller") is None
    assert known.take_actions()[-1] == Request(first)


def test_a_guest_has_a_bound_and_pays_for_it_with_its_silent_addresses() -> None:
    known = table(max_per_guest=2)
    known.learn(ONE, A, 0, 0.0)
    known.learn(TWO, A, 0, 20.0)
    known.take_actions()
    assert refused(known, TWO + 1, A, 0, 29.0) == "table_full"
    known.learn(TWO + 1, A, 0, 31.0)
    assert known.take_actions() == [Lost(ONE), Learned(TWO + 1, A, 0)]
    known.learn(ONE, B, 1, 31.0)
    assert known.snapshot() == {ONE: (B, 1), TWO: (A, 0), TWO + 1: (A, 0)}


def pairs(link: int) -> int:
    """The guest of a link, where each guest has opened two."""
    return link // 2


def test_the_bound_of_a_guest_holds_for_all_its_links_together() -> None:
    known = table(max_per_guest=2, guest_of=pairs)
    known.learn(ONE, A, 0, 0.0)
    known.learn(TWO, B, 1, 20.0)
    known.take_actions()
    assert refused(known, TWO + 1, B, 1, 29.0) == "table_full"
    known.learn(TWO + 1, A, 2, 29.0)
    known.learn(TWO + 2, B, 1, 31.0)
    assert known.take_actions() == [Learned(TWO + 1, A, 2), Lost(ONE), Learned(TWO + 2, B, 1)]
    known.forget_link(0)
    assert known.snapshot() == {TWO: (B, 1), TWO + 1: (A, 2), TWO + 2: (B, 1)}
    known.forget_link(1)
    assert known.snapshot() == {TWO + 1: (A, 2)}


def test_an_address_moves_between_two_links_of_a_guest_that_has_as_many_as_it_may() -> None:
    known = table(max_per_guest=1, guest_of=pairs)
    known.learn(ONE, A, 0, 0.0)
    assert refused(known, ONE, B, 1, 31.0) == "address_taken"
    known.on_timer(31.5)
    known.on_timer(32.0)
    assert known.snapshot() == {ONE: (B, 1)}
    assert refused(known, ONE, A, 0, 40.0) == "address_taken"
    known.forget_link(1)
    assert known.snapshot() == {ONE: (A, 0)}


def test_in_a_full_table_the_guest_with_most_addresses_makes_room_whatever_links_it_has() -> None:
    known = table(max_neighbors=4, guest_of=pairs)
    for n in range(4):
        known.learn(TWO + n, A, n % 2, float(n))
    for n in range(2):
        known.learn(TWO + 10 + n, B, 2 + n, 4.0)
    assert refused(known, TWO + 12, B, 3, 4.0) == "table_full"
    assert known.snapshot() == {TWO + 2: (A, 0), TWO + 3: (A, 1), TWO + 10: (B, 2), TWO + 11: (B, 3)}


def test_in_a_full_table_the_link_with_most_addresses_makes_room() -> None:
    known = table(max_neighbors=4)
    for n in range(4):
        known.learn(TWO + n, A, 0, float(n))
    refused(known, TWO + 9, A, 0, 4.0)
    known.learn(ONE, B, 1, 4.0)
    assert known.snapshot() == {TWO + 1: (A, 0), TWO + 2: (A, 0), TWO + 3: (A, 0), ONE: (B, 1)}
    known.learn(ONE + 10, B, 1, 4.0)
    assert refused(known, ONE + 11, B, 1, 4.0) == "table_full"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["learn", "resolve", "timer", "forget", "hold", "unhold"]),
        st.integers(0, 8),
        st.sampled_from([A, B, GATEWAY_MAC, ethernet.ZERO]),
        st.integers(0, 2),
        st.floats(0, 40),
    ),
    max_size=60,
)


@given(STEPS, st.booleans())
def test_actions_tell_the_table_and_every_caller_is_answered_once(
    steps: list[tuple[str, int, bytes, int, float]], paired: bool
) -> None:
    guest_of = pairs if paired else int
    known = table(max_neighbors=4, max_per_guest=2, guest_of=guest_of)
    model: dict[int, tuple[bytes, int]] = {}
    waiting: set[int] = set()
    now = 0.0

    def follow() -> None:
        for action in known.take_actions():
            if isinstance(action, Changed):
                assert model[action.addr][1] == action.link
                model[action.addr] = (action.mac, action.link)
            elif isinstance(action, Learned):
                model[action.addr] = (action.mac, action.link)
                waiting.difference_update(action.waiting)
            elif isinstance(action, Lost):
                assert waiting.issuperset(action.waiting)
                waiting.difference_update(action.waiting)
                if known.get(action.addr) is None:
                    model.pop(action.addr, None)
        assert known.snapshot() == model
        assert len(model) <= 4
        assert max(Counter(guest_of(link) for _, link in model.values()).values(), default=0) <= 2

    for number, (step, host, mac, link, wait) in enumerate(steps):
        now += wait
        addr = NETWORK + host
        if step == "learn":
            parsed(known.learn, addr, mac, link, now)
        elif step == "resolve":
            waiting.add(number)
            if known.resolve(addr, now, number) is not None:
                waiting.remove(number)
        elif step == "timer":
            known.on_timer(now)
        elif step == "hold":
            known.hold(addr, mac, now)
        elif step == "unhold":
            known.unhold(addr, mac)
        else:
            known.forget_link(link)
        follow()
        assert GATEWAY not in model
    for _ in range(5):
        now += 5.0
        known.on_timer(now)
        follow()
    assert not waiting
    assert known.deadline() == INF
