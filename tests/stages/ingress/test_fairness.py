"""Fairness of ingress: when a link that is not read is looked at again, and that nobody spins meanwhile."""

import contextlib
import socket
import time
from collections import Counter
from time import monotonic

import pytest

from pipeline.counters import INDEX
from pipeline.ipc.arena import Pool
from pipeline.records import kinds
from pipeline.records.frames import Frame
from pipeline.records.kinds import RECORD_BYTES
from pipeline.stages.ingress.fairness import GRACE_S, Fairness
from pipeline.stages.ingress.shares import SHARING_S
from tests.support.ingress_rig import FRAME, IngressRig

NEVER = float("inf")
RATE = 100


@pytest.fixture
def pool() -> Pool:
    return Pool(0, 16)


@pytest.fixture
def fairness(pool: Pool) -> Fairness:
    return Fairness(pool, memoryview(bytearray(8 * len(INDEX))).cast("Q"), RATE)


def test_a_paused_link_is_looked_at_only_while_it_has_something_for_others_to_fear(
    fairness: Fairness,
) -> None:
    fairness.charge(1, 1000, 10.0)
    assert not fairness.may_read_guest(1, 10.0)
    again = fairness.deadline([1, 2], many=True)
    assert 10.0 < again < 30.0
    assert fairness.deadline([], many=True) == NEVER, "nothing to read"
    assert fairness.deadline([2], many=True) == NEVER, "only the other has something"
    assert fairness.deadline([1], many=False) == NEVER, "alone it is read"
    assert fairness.may_read_guest(1, again)
    assert fairness.deadline([1, 2], many=True) == NEVER


def test_a_pause_that_grew_meanwhile_moves_its_deadline(fairness: Fairness) -> None:
    fairness.charge(1, 1000, 10.0)
    first = fairness.deadline([1], many=True)
    fairness.charge(1, 1000, 11.0)
    assert not fairness.may_read_guest(1, first)
    assert fairness.deadline([1], many=True) > first


def test_the_wait_for_slots_ends_by_itself_only_for_links_with_something(
    fairness: Fairness, pool: Pool
) -> None:
    assert fairness.may_read(5.0)
    while pool.free_count > 1:
        pool.alloc()
    assert not fairness.may_read(5.001)
    assert fairness.deadline([1], many=False) == 5.0 + GRACE_S
    assert fairness.deadline([], many=False) == NEVER
    # A link whose pause is over cannot be read before either.
    fairness.charge(1, 30, 4.0)
    assert fairness.deadline([1], many=True) == 5.0 + GRACE_S
    assert fairness.may_read(5.0 + GRACE_S)
    assert fairness.scarce


def test_slots_that_others_use_again_while_nobody_notes_it_count_for_nobody(
    fairness: Fairness, pool: Pool
) -> None:
    for _ in range(pool.count - 2):
        fairness.holds(1, pool.alloc())
    assert fairness.holding_too_many() == {1}
    fairness.forget_holders()
    assert not fairness.holding_too_many()


def test_a_guest_that_was_away_holds_no_slots_when_it_is_back(rig: IngressRig) -> None:
    stays, leaves = rig.guest(), rig.guest()
    rig.turn()
    for slot in range(rig.worker.pool.count):
        rig.stage.fairness.holds(2, slot)
    leaves.close()
    rig.turn()
    comes = rig.guest()
    while rig.worker.pool.free_count > 4:
        rig.worker.pool.alloc()
    assert not rig.stage.fairness.holding_too_many()
    for guest in (stays, comes):
        guest.close()


def test_ingress_sleeps_when_its_only_guest_has_misbehaved(rig: IngressRig) -> None:
    guest = rig.guest()
    rig.turn()
    rig.stage.fairness.charge(1, rig.rate * 10, monotonic())
    rig.turn()
    guest.sendall(b"\x0e\x00" + bytes(14))
    rig.turn()
    rig.turn()
    assert rig.stage.fairness.deadline([1], many=True) < NEVER, "it is paused"
    assert rig.stage.deadline() == NEVER
    guest.close()


def test_bad_frames_that_came_while_all_others_were_silent_begin_no_pause(rig: IngressRig) -> None:
    bad, silent = rig.guest(), rig.guest()
    rig.turn()
    rig.turn()
    time.sleep(SHARING_S)
    for _ in range(3):
        bad.sendall(FRAME)
        rig.turn()
        rig.misbehaved(1)
    rig.turn()
    silent.sendall(FRAME)
    bad.sendall(FRAME)
    rig.turn()
    assert rig.stage.ports.shares.several
    assert not rig.stage.fairness.paused()
    bad.close()
    silent.close()


def test_a_guest_beside_silent_ones_does_not_get_all_slots(rig: IngressRig) -> None:
    eager, silent = rig.guest(), rig.guest()
    rig.turn()
    rig.turn()
    time.sleep(SHARING_S)
    large = (1400).to_bytes(2, "little") + bytes(1400)
    eager.setblocking(False)
    for _ in range(400):
        with contextlib.suppress(BlockingIOError):
            eager.send(large * 40)
        rig.turn()
        rig.taken()
    assert not rig.stage.ports.shares.several
    assert rig.worker.pool.free_count >= rig.worker.pool.count // 4, "it holds more than are free"
    silent.sendall(FRAME)
    rig.turn()
    assert rig.kinds().count(kinds.FRAME) == 1
    eager.close()
    silent.close()


def test_ingress_sleeps_until_the_pause_of_a_guest_among_others_is_over(rig: IngressRig) -> None:
    guests = [rig.guest(), rig.guest()]
    rig.turn()
    rig.misbehaved(1)
    rig.turn()
    assert rig.stage.deadline() == NEVER, "it has sent nothing since"
    guests[0].sendall(b"\x0e\x00" + bytes(14))
    rig.turn()
    rig.turn()
    assert monotonic() + 1 < rig.stage.deadline() < NEVER
    for guest in guests:
        guest.close()


def test_one_guest_of_another_host_does_not_stop_all_the_others(rig: IngressRig) -> None:
    """It may send segments without a connection to the station of this host, as many as it likes."""
    (tunnel, far), (_, near) = rig.link_of("other hosts"), rig.link_of("process 7")
    tunnel.link.tunnel_mtu = 1450
    rig.turn()
    rig.turn()
    rig.misbehaved(tunnel.number)
    rig.turn()
    far.sendall(b"\x0e\x00" + bytes(14))
    for _ in range(3):
        rig.turn()
    assert tunnel.traffic.frames_from_guest == 1
    assert tunnel.traffic.frames_dropped == rig.rate * 10
    for end in (far, near):
        end.close()


def test_all_links_of_a_guest_pay_for_the_bad_frames_of_one(rig: IngressRig) -> None:
    (bad, first), (good, second) = rig.link_of("process 7"), rig.link_of("process 7")
    other, third = rig.link_of("process 8")
    rig.turn()
    rig.turn()
    rig.misbehaved(bad.number)
    rig.turn()
    for end in (second, third):
        end.sendall(b"\x0e\x00" + bytes(14))
    for _ in range(3):
        rig.turn()
    assert (good.traffic.frames_from_guest, other.traffic.frames_from_guest) == (0, 1)
    assert monotonic() + 1 < rig.stage.deadline() < NEVER
    for end in (first, second, third):
        end.close()


def test_guests_take_turns_when_rings_have_little_room(rig: IngressRig) -> None:
    guests = [rig.guest(), rig.guest()]
    flood = (b"\x0e\x00" + bytes(14)) * 4000
    for guest in guests:
        guest.setblocking(False)
    demux = rig.fabric.ports("demux").rings_in["ingress"]
    taken = Counter[int]()
    cut = dict.fromkeys(guests, 0)
    for _ in range(60):
        for guest in guests:
            with contextlib.suppress(BlockingIOError):
                # A frame that was cut goes on where it was.
                cut[guest] += guest.send(flood[cut[guest] % 16 :])
        # Only the turns are looked at here, not what small work may take.
        for number in (1, 2):
            rig.stage.ports.shares.credit(number, 1_000_000_000)
        rig.turn()
        burst = demux.peek()
        for at in range(0, len(burst), RECORD_BYTES):
            if burst[at] == kinds.FRAME:
                frame = Frame.unpack(burst, at)
                taken[frame.link] += 1
                rig.worker.free(frame.slot)
        demux.release(len(burst) // RECORD_BYTES)
    assert min(taken[1], taken[2]) * 3 > sum(taken.values()), taken
    for guest in guests:
        guest.close()


def test_a_report_about_a_guest_that_left_is_no_reason_to_wake(rig: IngressRig) -> None:
    guests = [rig.guest(), rig.guest()]
    rig.turn()
    guests[0].close()
    rig.turn()
    rig.misbehaved(1)
    rig.turn()
    assert rig.stage.fairness.deadline([1], many=True) == NEVER
    assert rig.stage.deadline() == NEVER
    guests[1].close()


def test_descriptors_of_requests_that_nobody_knows_are_closed(rig: IngressRig) -> None:
    ours, theirs = socket.socketpair()
    assert "error" in rig.stage.on_control({"op": "nonsense"}, [ours.detach()])
    assert theirs.recv(10) == b""
    theirs.close()
    assert "error" in rig.stage.on_control({"op": "attach", "head": b""}, [])
