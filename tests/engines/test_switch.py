"""The learning switch."""

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
    MOVE_HOLD,
    TO_GATEWAY,
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


def test_a_guest_that_moves_is_found_at_its_new_link() -> None:
    switch = learned((A, 0), (B, 1))
    assert switch.on_frame(GATEWAY, A, 2, 5.0) == TO_GATEWAY
    assert switch.take_events() == [SwitchEvent("moved", A, 2)]
    assert switch.on_frame(A, B, 1, 5.0) == 2
    switch.forget_link(0)
    assert switch.cam() == {A: 2, B: 1}


def test_an_address_claimed_by_two_links_does_not_flap() -> None:
    switch = learned((A, 0))
    switch.on_frame(GATEWAY, A, 1, 5.0)
    with pytest.raises(WireError, match="switch_frame_dropped_moving_source"):
        switch.on_frame(GATEWAY, A, 0, 5.0 + MOVE_HOLD / 2)
    assert switch.on_frame(GATEWAY, A, 0, 5.0 + MOVE_HOLD) == TO_GATEWAY
    assert [event.kind for event in switch.take_events()] == ["moved", "moved"]


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


def moves(switch: Switch, mac: bytes, link: int, now: float) -> bool:
    """Whether a frame from another link moves the MAC there."""
    try:
        switch.on_frame(GATEWAY, mac, link, now)
    except WireError as error:
        if error.reason != "switch_frame_dropped_moving_source":
            raise
    return switch.cam()[mac] == link


def test_a_station_that_answers_keeps_its_mac_and_is_not_cut_off() -> None:
    switch, asked = asking((A, 0))
    for tick in range(100):
        now = 5.0 + tick / 10
        assert not moves(switch, A, 1, now)
        if asked:
            assert asked.pop() == (A, 0)
            assert switch.on_frame(GATEWAY, A, 0, now) == TO_GATEWAY
    assert switch.cam() == {A: 0}
    assert {event.kind for event in switch.take_events()} == {"contested"}


def test_a_station_that_is_silent_for_a_second_loses_its_mac_to_the_other_link() -> None:
    switch, asked = asking((A, 0))
    assert not moves(switch, A, 1, 5.0)
    assert not moves(switch, A, 1, 5.0 + ASK_AGAIN)
    assert asked == [(A, 0)] * 2
    assert not moves(switch, A, 1, 4.99 + ANSWER_SECONDS)
    assert moves(switch, A, 1, 5.0 + ANSWER_SECONDS)
    assert switch.take_events() == [SwitchEvent("contested", A, 1), SwitchEvent("moved", A, 1)]


def test_a_station_whose_link_goes_down_in_a_contest_loses_its_mac_at_once() -> None:
    switch, _ = asking((A, 0))
    assert not moves(switch, A, 1, 5.0)
    switch.forget_link(0)
    assert moves(switch, A, 1, 5.1)


def test_a_link_that_claims_many_macs_causes_few_questions() -> None:
    macs = [bytes((2, 0, 0, 0, 0, n)) for n in range(100)]
    switch, asked = asking(*((mac, 0) for mac in macs))
    for mac in macs:
        assert not moves(switch, mac, 1, 5.0)
    assert len(asked) == CONTESTS_PER_SECOND
    for mac in macs:
        switch.on_frame(GATEWAY, mac, 0, 5.1)
    assert not moves(switch, macs[-1], 2, 5.2)
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


def test_a_link_has_a_bound_on_addresses_and_its_frames_still_go_their_way() -> None:
    switch = Switch(GATEWAY, max_macs_per_link=2)
    for n in range(5):
        assert switch.on_frame(GATEWAY, bytes((2, 0, 0, 0, 0, n)), 0, 0.0) == TO_GATEWAY
    assert len(switch.cam()) == 2
    assert switch.not_learned == 3
    switch.on_frame(GATEWAY, A, 1, 0.0)
    assert switch.cam()[A] == 1


def test_the_whole_table_has_a_bound() -> None:
    switch = Switch(GATEWAY, max_macs=2)
    for link, mac in enumerate((A, B, C)):
        switch.on_frame(GATEWAY, mac, link, 0.0)
    assert switch.cam() == {A: 0, B: 1}
    assert switch.not_learned == 1


MACS = st.sampled_from([A, B, C, GATEWAY, ethernet.BROADCAST, ethernet.ZERO, MULTICAST])


@given(st.lists(st.tuples(MACS, MACS, st.integers(-1, 3), st.floats(0, 3)), max_size=60))
def test_events_tell_the_table(steps: list[tuple[bytes, bytes, int, float]]) -> None:
    switch = Switch(GATEWAY, max_macs_per_link=2, max_macs=3)
    model: dict[bytes, int] = {}
    now = 0.0
    for dst, src, link, wait in steps:
        now += wait
        if link < 0:
            switch.forget_link(0)
        else:
            port = parsed(switch.on_frame, dst, src, link, now)
            assert port in (None, TO_GATEWAY, FLOOD, 0, 1, 2, 3)
        for event in switch.take_events():
            if event.kind == "claimed":
                assert event.mac == GATEWAY
            elif event.kind == "gone":
                assert model.pop(event.mac) == event.link
            else:
                assert (event.mac in model) == (event.kind == "moved")
                model[event.mac] = event.link
        assert switch.cam() == model
        assert not model.keys() & {GATEWAY, ethernet.BROADCAST, ethernet.ZERO, MULTICAST}
        assert len(model) <= 3
