"""Who is active, and how long a step of ingress is beside guests that are silent or have just come."""

from time import monotonic

import pytest

from pipeline.links.base import FULL_READ
from pipeline.records import kinds
from pipeline.stages.ingress import receiver, shares
from tests.support.ingress_rig import FRAME, LARGE, IngressRig


def test_a_guest_beside_which_all_others_are_silent_is_read_as_if_it_were_alone(rig: IngressRig) -> None:
    port, end = rig.link_of("process 7")
    _, silent = rig.link_of("process 8")
    rig.stop_sharing()
    for _ in range(10):
        end.sendall(LARGE * 3)
        rig.turn()
    assert port.traffic.frames_from_guest == 30
    assert not rig.stage.ports.shares.several
    assert not port.link.holds_frames
    silent.sendall(LARGE)
    rig.turn()
    assert rig.stage.ports.shares.several, "before its first frame is read"
    end.close()
    silent.close()


def test_frames_of_unknown_cost_do_not_keep_the_next_guest_waiting(rig: IngressRig) -> None:
    port, flood = rig.link_of("process 7")
    _, silent = rig.link_of("process 8")
    rig.stop_sharing()
    flood.sendall(FRAME * 130)
    for left in (66, 2, 0):
        rig.turn()
        assert rig.kinds().count(kinds.FRAME) <= shares.FRAMES_OF_STEP
        assert port.traffic.frames_from_guest == 130 - left
        assert (rig.stage.deadline() == 0.0) == (left > 0), "the rest follows at once"
    assert not rig.stage.ports.shares.several
    flood.close()
    silent.close()


@pytest.mark.parametrize("shared", [True, False])
def test_a_step_has_no_more_small_frames_if_they_come_over_several_links(
    rig: IngressRig, shared: bool
) -> None:
    links = [rig.link_of("process 7") for _ in range(4)]
    _, other = rig.link_of("process 8")
    rig.stop_sharing()
    accounts = rig.stage.ports.shares
    accounts.was_read(links[0][0].guest_number, 200_000, 140, 0.0, monotonic())
    if shared:
        rig.begin_sharing(links[0][1], other)
    for _, end in links:
        end.sendall(FRAME * 47)
    seen = 0
    while seen < 4 * 47:
        rig.turn()
        frames = rig.kinds().count(kinds.FRAME)
        assert 0 < frames <= shares.FRAMES_OF_STEP + shares.LEAST_FRAMES
        seen += frames
    for end in (*[end for _, end in links], other):
        end.close()


def test_a_step_beside_silent_guests_does_not_grow_with_the_links_of_one_that_sends_large_frames(
    rig: IngressRig,
) -> None:
    links = [rig.link_of("process 7") for _ in range(8)]
    _, silent = rig.link_of("process 8")
    rig.stop_sharing()
    for _, end in links:
        end.sendall(LARGE * 60)
    seen = 0
    while seen < 8 * 60:
        rig.turn()
        frames = rig.kinds().count(kinds.FRAME)
        assert 0 < frames <= shares.LARGE_OF_STEP
        seen += frames
    for end in (*[end for _, end in links], silent):
        end.close()


def test_a_guest_that_is_alone_again_is_read_without_a_limit(rig: IngressRig) -> None:
    port, end = rig.link_of("process 7")
    _, leaving = rig.link_of("process 8")
    rig.turn()
    rig.turn()
    rig.begin_sharing(end, leaving)
    port.link.read_limit = shares.LEAST_READ
    leaving.close()
    end.sendall(LARGE * 20)
    rig.turn()
    rig.turn()
    rig.turn()
    assert not rig.stage.ports.shares.linked
    had = port.traffic.frames_from_guest
    end.sendall(LARGE * 20)
    rig.turn()
    assert port.traffic.frames_from_guest == had + 20, "one read"
    assert port.link.read_limit == FULL_READ
    end.close()


def test_a_guest_that_must_wait_for_two_reasons_keeps_nobody_awake(rig: IngressRig) -> None:
    port, end = rig.link_of("process 7")
    _, other = rig.link_of("process 8")
    rig.stage.ports.rates.set_rate(1000.0)
    rig.turn()
    rig.turn()
    rig.begin_sharing(end, other)
    now = monotonic()
    rig.stage.ports.rates.charge(port.guest_number, 1 << 20, now - 2000.0)
    end.sendall(FRAME)
    rig.turn()
    rig.stage.ports.rates.charge(port.guest_number, -(1 << 20), now)
    rig.stage.fairness.charge(port.guest_number, rig.rate * 10, now)
    other.sendall(FRAME)
    rig.turn()
    rig.turn()
    assert port in rig.stage.ports.readable
    assert rig.stage.deadline() > monotonic() + 1.0, "until its pause is over"
    end.close()
    other.close()


def test_frames_that_wait_in_a_slot_come_in_shorter_pieces_when_they_turn_out_to_be_expensive(
    rig: IngressRig,
) -> None:
    port, flood = rig.link_of("process 7")
    _, honest = rig.link_of("process 8")
    rig.turn()
    rig.turn()
    accounts = rig.stage.ports.shares
    accounts.was_read(port.guest_number, 200_000, 140, 0.0, monotonic())
    rig.begin_sharing(flood, honest)
    flood.sendall(FRAME * 700)
    rig.turn()
    assert port.link.holds_frames
    accounts.credit(port.guest_number, 1 << 40)
    for _ in range(60):
        accounts.charge(port.guest_number, 0.002, monotonic())
        accounts.credit(port.guest_number, 1 << 40)
    rig.finish()
    rig.turn()
    assert port.link.holds_frames
    assert port.link.frame_limit == shares.LEAST_FRAMES
    assert rig.kinds().count(kinds.FRAME) <= receiver.READS_A_STEP * shares.LEAST_FRAMES
    flood.close()
    honest.close()
