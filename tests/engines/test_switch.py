"""The learning switch."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.switch import (
    ANSWER_SECONDS,
    ASK_AGAIN,
    CLAIM_INTERVAL,
    CONTESTS_PER_SECOND,
    FLOOD,
    REPLACED_PER_SECOND,
    TO_GATEWAY,
    UNUSED_SECONDS,
    WIN_BACK_SECONDS,
    Switch,
    SwitchEvent,
)
from pipeline.wire import ethernet
from pipeline.wire.errors import WireError
from tests.support.fuzz import parsed

GATEWAY = bytes.fromhex("5a94efe40cdd")
A, B, C = (bytes.fromhex(f"5a94efe40ce{n}") for n in "abc")
MULTICAST = bytes.fromhex("01005e0000fb")


def learned(*pairs: tuple[bytes, int]) -> Switch:
    switch = Switch(GATEWAY)
    for mac, link in pairs:
        switch.on_frame(GATEWAY, mac, link, 0.0)
    switch.take_events()
    return switch


def test_frames_for_the_gateway_go_there_and_teach_the_source() -> None:
    switch = Switch(GATEWAY)
    assert switch.on_frame(GATEWAY, A, 3, 0.0) == TO_GATEWAY
    assert switch.cam() == {A: 3}
    assert switch.take_events() == [SwitchEvent("seen", A, 3)]
    assert switch.on_frame(GATEWAY, A, 3, 1.0) == TO_GATEWAY
    assert switch.take_events() == []


@pytest.mark.parametrize("dst", [ethernet.BROADCAST, MULTICAST])
def test_broadcast_and_multicast_are_flooded(dst: bytes) -> None:
    assert learned((A, 0), (B, 1)).on_frame(dst, A, 0, 1.0) == FLOOD


def test_a_known_guest_is_reached_through_its_link() -> None:
    assert learned((A, 0), (B, 1)).on_frame(B, A, 0, 1.0) == 1


@pytest.mark.parametrize(
    "dst, src, reason",
    [
        (C, A, "switch_frame_dropped_unknown_destination"),
        (A, A, "switch_frame_dropped_same_link"),
        (GATEWAY, ethernet.ZERO, "switch_frame_dropped_bad_source"),
        (GATEWAY, ethernet.BROADCAST, "switch_frame_dropped_bad_source"),
        (GATEWAY, MULTICAST, "switch_frame_dropped_bad_source"),
        (B, GATEWAY, "switch_frame_dropped_gateway_source"),
    ],
)
def test_frames_that_go_nowhere_have_a_reason(dst: bytes, src: bytes, reason: str) -> None:
    switch = learned((A, 0), (B, 1))
    with pytest.raises(WireError, match=f"^{reason}$"):
        switch.on_frame(dst, src, 0, 1.0)
    assert reason in INDEX
    assert switch.cam() == {A: 0, B: 1}


def asking(*pairs: tuple[bytes, int]) -> tuple[Switch, list[tuple[bytes, int]]]:
    """A switch whose stations have addresses, and who was asked."""
    asked: list[tuple[bytes, int]] = []

    def ask(mac: bytes, link: int) -> bool:
        asked.append((mac, link))
        return True

    switch = Switch(GATEWAY, ask=ask)
    for mac, link in pairs:
        switch.on_frame(GATEWAY, mac, link, 0.0)
    switch.take_events()
    return switch, asked


def passes(switch: Switch, mac: bytes, link: int, now: float) -> bool:
    """Whether a frame of mac from that link is let through, after what time has brought."""
    while switch.deadline() <= now:
        switch.on_timer(switch.deadline())
    try:
        switch.on_frame(GATEWAY, mac, link, now)
    except WireError as error:
        if error.reason != "switch_frame_dropped_moving_source":
            raise
        assert switch.cam()[mac] != link
        return False
    return True


def test_a_guest_that_moves_is_found_at_its_new_link() -> None:
    switch = learned((A, 0), (B, 1))
    assert not passes(switch, A, 2, 5.0)
    assert passes(switch, A, 2, 5.0 + ANSWER_SECONDS)
    assert switch.take_events() == [SwitchEvent("contested", A, 2), SwitchEvent("moved", A, 2)]
    assert switch.on_frame(A, B, 1, 6.0) == 2
    switch.forget_link(0)
    assert switch.cam() == {A: 2, B: 1}


def test_an_address_claimed_by_two_links_does_not_flap() -> None:
    switch = learned((A, 0))
    for tick in range(1000):
        passes(switch, A, tick % 2, 5.0 + tick / 100)
    assert switch.cam() == {A: 0}
    assert [event.kind for event in switch.take_events()].count("moved") == 0


@pytest.mark.parametrize("has_address", [True, False])
def test_a_station_that_shows_itself_keeps_its_mac_and_is_not_cut_off(has_address: bool) -> None:
    switch, asked = asking((A, 0)) if has_address else (learned((A, 0)), [])
    for tick in range(100):
        now = 5.0 + tick / 10
        assert not passes(switch, A, 1, now)
        if asked:
            assert asked.pop() == (A, 0)
        if tick % 9 == 8 or has_address:
            assert passes(switch, A, 0, now)
    assert switch.cam() == {A: 0}
    assert {event.kind for event in switch.take_events()} == {"contested"}


def test_a_station_that_is_silent_for_a_second_loses_its_mac_to_the_other_link() -> None:
    switch, asked = asking((A, 0))
    assert not passes(switch, A, 1, 5.0)
    assert switch.deadline() == 5.0 + ASK_AGAIN
    assert not passes(switch, A, 1, 4.99 + ANSWER_SECONDS)
    assert asked == [(A, 0)] * 2
    assert passes(switch, A, 1, 5.0 + ANSWER_SECONDS)
    assert switch.take_events() == [SwitchEvent("contested", A, 1), SwitchEvent("moved", A, 1)]
    assert switch.deadline() == float("inf")


def test_one_lost_question_does_not_cost_a_station_its_mac() -> None:
    switch, asked = asking((A, 0))
    assert not passes(switch, A, 1, 5.0)
    assert asked == [(A, 0)], "this one is lost"
    # The claimant says no more, and is not needed for the second question.
    switch.on_timer(5.0 + ASK_AGAIN)
    assert asked == [(A, 0)] * 2
    assert passes(switch, A, 0, 5.9)
    assert not passes(switch, A, 1, 6.1)
    assert switch.cam() == {A: 0}


def test_a_guest_that_moved_and_speaks_seldom_has_its_mac_a_second_after_its_first_frame() -> None:
    switch, _ = asking((A, 0))
    assert not passes(switch, A, 1, 5.0)
    for now in (5.0 + ASK_AGAIN, 5.0 + ANSWER_SECONDS):
        assert switch.deadline() == now
        switch.on_timer(now)
    assert switch.cam() == {A: 1}


def test_a_claim_of_hours_ago_does_not_move_a_mac_without_a_new_question() -> None:
    switch, asked = asking((A, 0))
    assert not passes(switch, A, 1, 5.0)
    # The worker did not run meanwhile: the host slept.
    late = 5.0 + 36000
    switch.on_timer(late)
    assert asked == [(A, 0)] * 2
    assert switch.cam() == {A: 0}
    assert passes(switch, A, 0, late + 0.1)
    assert not passes(switch, A, 1, late + 7200)
    assert asked == [(A, 0)] * 3


def test_a_claim_ends_with_the_link_of_its_claimant() -> None:
    switch, asked = asking((A, 0))
    assert not passes(switch, A, 1, 5.0)
    switch.forget_link(1)
    assert switch.deadline() == float("inf")
    # Another guest has the number of that link now.
    assert not passes(switch, A, 1, 5.0 + ANSWER_SECONDS)
    assert asked == [(A, 0)] * 2
    assert switch.cam() == {A: 0}


def test_a_station_whose_link_goes_down_in_a_contest_loses_its_mac_at_once() -> None:
    switch, _ = asking((A, 0))
    assert not passes(switch, A, 1, 5.0)
    switch.forget_link(0)
    assert switch.deadline() == float("inf")
    assert passes(switch, A, 1, 5.1)


@pytest.mark.parametrize("thieves", [1, 2])
def test_a_guest_without_an_address_is_not_shut_out_by_one_that_takes_its_mac(thieves: int) -> None:
    # As DHCP clients do: a frame each few seconds. The thieves speak, and answer for all that they are asked.
    switch, _ = asking((A, 0))
    for tick in range(6000):
        now = 1.0 + tick / 10
        passes(switch, A, 1 + tick % thieves, now)
        if tick % 30 == 0:
            assert passes(switch, A, 0, now + 0.05)


def test_a_station_may_win_its_mac_back_only_for_a_while_and_while_its_link_is_there() -> None:
    for wait, wins in ((WIN_BACK_SECONDS - 0.1, True), (WIN_BACK_SECONDS, False)):
        switch = learned((A, 0))
        passes(switch, A, 1, 5.0)
        assert passes(switch, A, 1, 5.0 + ANSWER_SECONDS)
        assert passes(switch, A, 0, 5.0 + ANSWER_SECONDS + wait) == wins
    switch = learned((A, 0))
    passes(switch, A, 1, 5.0)
    assert passes(switch, A, 1, 5.0 + ANSWER_SECONDS)
    switch.forget_link(0)
    assert not passes(switch, A, 0, 7.0), "another guest has that number"


def test_who_took_a_mac_has_no_right_to_win_it_back() -> None:
    switch = learned((A, 0))
    passes(switch, A, 1, 5.0)
    assert passes(switch, A, 1, 6.0)
    assert passes(switch, A, 0, 7.0)
    assert not passes(switch, A, 1, 7.1)
    assert passes(switch, A, 0, 7.5)
    assert not passes(switch, A, 1, 8.2)


def test_a_mac_does_not_move_to_a_link_that_can_have_no_more() -> None:
    switch = Switch(GATEWAY, max_macs_per_guest=1)
    assert passes(switch, A, 0, 0.0)
    assert passes(switch, B, 1, 5.0)
    for tick in range(30):
        now = 5.0 + tick / 10
        assert not passes(switch, A, 1, now)
        assert passes(switch, B, 1, now)
    assert switch.cam() == {A: 0, B: 1}


def test_a_link_that_claims_many_macs_causes_few_questions() -> None:
    macs = [bytes((2, 0, 0, 0, 0, n)) for n in range(100)]
    switch, asked = asking(*((mac, 0) for mac in macs))
    for mac in macs:
        assert not passes(switch, mac, 1, 5.0)
    assert len(asked) == CONTESTS_PER_SECOND
    for mac in macs:
        switch.on_frame(GATEWAY, mac, 0, 5.1)
    assert not passes(switch, macs[-1], 2, 5.2)
    assert asked[-1] == (macs[-1], 0), "another link has a share of its own"
    assert set(switch.cam().values()) == {0}


def test_a_claim_of_the_gateways_address_is_an_event_once_in_a_while() -> None:
    switch = learned((A, 0))

    def claim(link: int, now: float) -> list[SwitchEvent]:
        with pytest.raises(WireError, match="switch_frame_dropped_gateway_source"):
            switch.on_frame(A, GATEWAY, link, now)
        return switch.take_events()

    assert claim(1, 5.0) == [SwitchEvent("claimed", GATEWAY, 1)]
    assert claim(1, 6.0) == []
    assert claim(2, 6.0) == [SwitchEvent("claimed", GATEWAY, 2)]
    assert claim(1, 5.0 + CLAIM_INTERVAL) == [SwitchEvent("claimed", GATEWAY, 1)]
    switch.forget_link(1)
    assert claim(1, 5.5 + CLAIM_INTERVAL) == [SwitchEvent("claimed", GATEWAY, 1)], "another guest"
    assert switch.cam() == {A: 0}


def test_a_link_that_goes_takes_its_addresses_along() -> None:
    switch = learned((A, 0), (B, 1), (C, 0))
    switch.forget_link(0)
    switch.forget_link(7)
    assert switch.cam() == {B: 1}
    assert switch.take_events() == [SwitchEvent("gone", A, 0), SwitchEvent("gone", C, 0)]


def test_a_guest_has_a_bound_on_addresses_and_its_frames_still_go_their_way() -> None:
    switch = Switch(GATEWAY, max_macs_per_guest=2)
    for n in range(5):
        assert switch.on_frame(GATEWAY, bytes((2, 0, 0, 0, 0, n)), 0, 0.0) == TO_GATEWAY
    assert len(switch.cam()) == 2
    assert switch.not_learned == 3
    switch.on_frame(GATEWAY, A, 1, 0.0)
    assert switch.cam()[A] == 1


def pairs(link: int) -> int:
    """The guest of a link, where each guest has opened two."""
    return link // 2


def test_the_bound_of_a_guest_holds_for_all_its_links_together() -> None:
    switch = Switch(GATEWAY, max_macs_per_guest=2, guest_of=pairs)
    macs = [bytes((2, 0, 0, 0, 0, n)) for n in range(6)]
    for n, mac in enumerate(macs[:3]):
        assert switch.on_frame(GATEWAY, mac, n % 2, 0.0) == TO_GATEWAY
    assert switch.cam() == {macs[0]: 0, macs[1]: 1}
    switch.on_frame(GATEWAY, macs[3], 2, 0.0)
    switch.on_frame(GATEWAY, macs[0], 0, 3.0)
    switch.on_frame(GATEWAY, macs[4], 0, UNUSED_SECONDS)
    assert switch.cam() == {macs[0]: 0, macs[3]: 2, macs[4]: 0}, "that of its other link makes room"
    switch.forget_link(0)
    assert switch.cam() == {macs[3]: 2}
    switch.forget_link(2)
    assert switch.cam() == {}


def test_a_mac_moves_between_two_links_of_a_guest_that_has_as_many_as_it_may() -> None:
    switch = Switch(GATEWAY, max_macs_per_guest=1, guest_of=pairs)
    assert passes(switch, A, 0, 0.0)
    assert not passes(switch, A, 1, 5.0)
    assert passes(switch, A, 1, 6.0)
    assert switch.cam() == {A: 1}
    switch.forget_link(0)
    assert switch.cam() == {A: 1}


def test_a_guest_that_claims_many_macs_over_all_its_links_causes_few_questions() -> None:
    asked: list[bytes] = []
    switch = Switch(GATEWAY, ask=lambda mac, _: asked.append(mac), guest_of=pairs)
    macs = [bytes((2, 0, 0, 0, 0, n)) for n in range(100)]
    for mac in macs:
        switch.on_frame(GATEWAY, mac, 0, 0.0)
    for n, mac in enumerate(macs):
        assert not passes(switch, mac, 2 + n % 2, 5.0)
    assert len(asked) == CONTESTS_PER_SECOND
    switch.forget_link(3)
    switch.forget_link(2)
    switch.on_guest_gone(5.0)
    assert not passes(switch, macs[-1], 2, 5.01)
    assert len(asked) == CONTESTS_PER_SECOND, "it has no new ones when it comes back"


def test_in_a_full_table_the_guest_with_most_macs_makes_room() -> None:
    switch = Switch(GATEWAY, max_macs=4, guest_of=pairs)
    macs = [bytes((2, 0, 0, 0, 0, n)) for n in range(8)]
    for n, mac in enumerate(macs[:4]):
        switch.on_frame(GATEWAY, mac, n % 2, float(n))
    for n, mac in enumerate(macs[4:]):
        switch.on_frame(GATEWAY, mac, 2 + n % 2, 4.0)
    assert switch.cam() == {macs[2]: 0, macs[3]: 1, macs[4]: 2, macs[5]: 3}
    assert switch.not_learned == 2


def test_a_guest_that_changed_its_mac_hundreds_of_times_is_reached_at_the_new_one() -> None:
    switch = learned((A, 1), (B, 0))
    for n in range(600):
        mac = bytes((2, 0, 0, 0, n >> 8, n & 255))
        now = 1.0 + n / 10
        switch.on_frame(GATEWAY, B, 0, now)
        switch.on_frame(GATEWAY, mac, 0, now)
        assert switch.on_frame(mac, A, 1, now) == switch.on_frame(B, A, 1, now) == 0
    assert switch.not_learned == 0
    assert len(switch.cam()) == 256 + 1


def test_a_link_that_makes_up_macs_replaces_few_and_none_that_is_in_use() -> None:
    switch = Switch(GATEWAY, max_macs_per_guest=64)
    for n in range(1000):
        switch.on_frame(GATEWAY, bytes((2, 0, 0, 0, n >> 8, n & 255)), 0, n / 1e6)
    assert (len(switch.cam()), switch.not_learned) == (64, 936)
    switch.take_events()
    used, late = bytes((2, 0, 0, 0, 0, 63)), UNUSED_SECONDS + 1.0
    switch.on_frame(GATEWAY, used, 0, late - 1.0)
    for n in range(1000):
        switch.on_frame(GATEWAY, bytes((6, 0, 0, 0, n >> 8, n & 255)), 0, late)
    kinds = [event.kind for event in switch.take_events()]
    assert kinds == ["gone", "seen"] * REPLACED_PER_SECOND
    assert switch.cam()[used] == 0


def test_a_contested_mac_that_makes_room_is_contested_no_more() -> None:
    switch = Switch(GATEWAY, max_macs_per_guest=1)
    switch.on_frame(GATEWAY, A, 0, 0.0)
    assert not passes(switch, A, 1, UNUSED_SECONDS)
    switch.on_frame(GATEWAY, B, 0, UNUSED_SECONDS)
    assert switch.deadline() == float("inf")
    assert passes(switch, A, 1, UNUSED_SECONDS)
    assert switch.cam() == {B: 0, A: 1}


def test_the_whole_table_has_a_bound() -> None:
    switch = Switch(GATEWAY, max_macs=2)
    for link, mac in enumerate((A, B, C)):
        switch.on_frame(GATEWAY, mac, link, 0.0)
    assert switch.cam() == {A: 0, B: 1}
    assert switch.not_learned == 1


# --- without contests -------------------------------------------------------------------


def test_where_the_newest_wins_every_frame_moves_its_mac() -> None:
    switch = Switch(GATEWAY, newest_wins=True)
    for link in (0, 1, 0, 2):
        assert switch.on_frame(GATEWAY, A, link, 0.0) == TO_GATEWAY
        assert switch.link_of(A) == link
    kinds = [event.kind for event in switch.take_events()]
    assert kinds == ["seen", "moved", "moved", "moved"]
    assert switch.deadline() == float("inf")


def test_where_the_newest_wins_the_gateways_mac_passes_and_teaches_nothing() -> None:
    switch = Switch(GATEWAY, newest_wins=True)
    switch.on_frame(GATEWAY, A, 1, 0.0)
    assert switch.on_frame(A, GATEWAY, 0, 0.0) == 1
    assert switch.cam() == {A: 1}


MACS = st.sampled_from([A, B, C, GATEWAY, ethernet.BROADCAST, ethernet.ZERO, MULTICAST])


@given(st.lists(st.tuples(MACS, MACS, st.integers(-4, 3), st.floats(0, 3)), max_size=60), st.booleans())
def test_events_tell_the_table(steps: list[tuple[bytes, bytes, int, float]], paired: bool) -> None:
    guest_of = pairs if paired else int
    switch = Switch(GATEWAY, max_macs_per_guest=2, max_macs=3, guest_of=guest_of)
    model: dict[bytes, int] = {}
    now = 0.0
    for dst, src, link, wait in steps:
        now += wait
        if wait > 1:
            switch.on_timer(now)
            assert switch.deadline() > now
        if link < 0:
            switch.forget_link(-1 - link)
        else:
            port = parsed(switch.on_frame, dst, src, link, now)
            assert port in (None, TO_GATEWAY, FLOOD, 0, 1, 2, 3)
        for event in switch.take_events():
            if event.kind == "claimed":
                assert event.mac == GATEWAY
            elif event.kind == "contested":
                assert model[event.mac] != event.link
            elif event.kind == "gone":
                assert model.pop(event.mac) == event.link
            else:
                assert (event.mac in model) == (event.kind == "moved")
                model[event.mac] = event.link
        assert switch.cam() == model
        assert not model.keys() & {GATEWAY, ethernet.BROADCAST, ethernet.ZERO, MULTICAST}
        assert len(model) <= 3
        assert max(Counter(guest_of(link) for link in model.values()).values(), default=0) <= 2
    for _ in range(3):
        now += 1.0
        switch.on_timer(now)
    assert switch.deadline() == float("inf")
