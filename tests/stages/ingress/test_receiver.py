"""Links are read in turns: nobody is forgotten, and ingress does not spin while somebody waits."""

from contextlib import suppress
from time import monotonic

import pytest

from pipeline.counters import INDEX
from pipeline.links.base import Burst, LinkClosed
from pipeline.records import kinds
from pipeline.stages.ingress import receiver, shares
from tests.support.frames import tcp_frame6, udp_frame6
from tests.support.ingress_rig import FRAME, LARGE, IngressRig

NEVER = float("inf")


def test_an_empty_link_does_not_hide_the_next_link_of_its_guest(rig: IngressRig) -> None:
    empty, first = rig.link_of("process 7")
    full, second = rig.link_of("process 7")
    _, other = rig.link_of("process 8")
    rig.turn()
    rig.turn()
    assert not rig.stage.ports.readable
    second.sendall(FRAME * 3)
    rig.stage.ports.readable[empty] = rig.stage.ports.readable[full] = None
    rig.turn()
    if rig.stage.deadline() == 0.0:
        rig.turn()
    assert not rig.stage.ports.readable, "both were read until they were empty"
    assert rig.taken() >= 3
    for end in (first, second, other):
        end.close()


def test_a_pause_that_is_over_does_not_keep_ingress_awake_while_its_guest_owes_time(rig: IngressRig) -> None:
    port, flood = rig.link_of("process 7")
    _, honest = rig.link_of("process 8")
    rig.turn()
    honest.sendall(FRAME)
    rig.turn()
    rig.stage.fairness.charge(port.guest_number, rig.rate * 2, monotonic() - 100.0)
    rig.worked(port.number, 1.0)
    rig.turn()
    flood.sendall(FRAME)
    honest.sendall(FRAME)
    rig.turn()
    rig.turn()
    assert port in rig.stage.ports.readable, "it has to wait for what it owes"
    assert rig.worker.counts[INDEX["link_reads_paused_small_work"]] == 1
    assert monotonic() < rig.stage.deadline() < monotonic() + 2 * shares.ACTIVE_S
    flood.close()
    honest.close()


def test_a_guest_that_waited_for_another_one_is_read_when_that_one_is_gone(rig: IngressRig) -> None:
    waiting, leaving = rig.guest(), rig.guest()
    rig.turn()
    leaving.sendall(FRAME)
    rig.turn()
    port, other = rig.stage.ports.by_number.values()
    rig.worked(port.number, 1.0)
    rig.turn()
    waiting.sendall(FRAME)
    leaving.sendall(FRAME)
    rig.turn()
    assert port in rig.stage.ports.readable
    rig.turn()
    rig.stage.ports.detach(other, LinkClosed("its socket broke while ingress sent to it"))
    assert rig.stage.deadline() == 0.0, "no event will come"
    rig.turn()
    rig.turn()
    assert port not in rig.stage.ports.readable
    assert rig.stage.deadline() == NEVER
    waiting.close()
    leaving.close()


def test_a_step_is_short_if_what_it_reads_is_work_for_others(rig: IngressRig) -> None:
    port, flood = rig.link_of("process 7")
    _, honest = rig.link_of("process 8")
    rig.turn()
    rig.turn()
    accounts = rig.stage.ports.shares
    accounts.was_read(port.guest_number, 16_000, 250, 230.0, monotonic())
    accounts.charge(port.guest_number, 0.005, monotonic())
    limit = accounts.read_limit(port.guest_number)
    honest.sendall(FRAME)
    flood.sendall(FRAME * 3000)
    rig.turn()
    assert (rig.taken() - 1) * len(FRAME) <= 2.5 * limit, "each read is about 0.2 ms of work"
    assert limit < 2 * shares.LEAST_READ
    assert rig.stage.deadline() == 0.0, "the rest follows at once"
    flood.close()
    honest.close()


def test_frames_that_were_cheap_do_not_bring_many_that_may_be_expensive(rig: IngressRig) -> None:
    port, flood = rig.link_of("process 7")
    _, honest = rig.link_of("process 8")
    rig.turn()
    rig.turn()
    accounts = rig.stage.ports.shares
    accounts.was_read(port.guest_number, 200_000, 140, 0.0, monotonic())
    accounts.charge(port.guest_number, 0.0001, monotonic())
    assert accounts.read_limit(port.guest_number) > 50_000, "its bytes were cheap"
    rig.begin_sharing(flood, honest)
    honest.sendall(LARGE)
    flood.sendall(FRAME * 700)
    rig.turn()
    assert port.link.holds_frames
    assert rig.taken() <= shares.FRAMES_OF_STEP + 1, "the step ends with them"
    assert rig.stage.deadline() == 0.0, "the rest follows at once, without an event"
    honest.sendall(LARGE)
    rig.turn()
    assert 2 < rig.taken() <= shares.FRAMES_OF_STEP + 2, "with both of the other guest"
    flood.close()
    honest.close()


def test_a_guest_that_is_alone_again_gets_all_frames_that_its_link_holds(rig: IngressRig) -> None:
    end, leaving = rig.guest(), rig.guest()
    rig.turn()
    port, other = rig.stage.ports.by_number.values()
    port.link.frame_limit = 1
    rig.stage.ports.readable[port] = None
    end.sendall(FRAME * 50)
    assert port.link.read_burst() is not None
    assert port.link.holds_frames
    rig.stage.ports.detach(other, LinkClosed("it has left"))
    rig.turn()
    assert not port.link.holds_frames
    assert port.traffic.frames_from_guest == 49
    end.close()
    leaving.close()


def test_a_link_that_a_read_has_emptied_is_not_read_again_in_the_step(
    rig: IngressRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, end = rig.link_of("process 7")
    _, other = rig.link_of("process 8")
    rig.turn()
    rig.turn()
    reads = 0
    read_burst = port.link.read_burst
    rig.begin_sharing(end, other)

    def counted() -> Burst | None:
        nonlocal reads
        reads += 1
        return read_burst()

    monkeypatch.setattr(port.link, "read_burst", counted)
    for number in range(1, 4):
        end.sendall(FRAME * number)
        rig.turn()
        assert (reads, rig.taken()) == (number, number)
        assert port not in rig.stage.ports.readable
        assert rig.stage.deadline() > 0.0
    end.close()
    other.close()


def test_a_step_does_not_grow_with_the_number_of_guests_that_flood(rig: IngressRig) -> None:
    links = [rig.link_of(f"process {number}") for number in range(7, 19)]
    rig.turn()
    rig.turn()
    accounts = rig.stage.ports.shares
    for port, _ in links:
        accounts.was_read(port.guest_number, 70_000, 1000, 0.0, monotonic())
        accounts.charge(port.guest_number, 0.02, monotonic())
    limit = accounts.read_limit(links[0][0].guest_number)
    for _, end in links:
        end.sendall(FRAME * 500)
    for _ in range(12):
        rig.turn()
        assert rig.taken() * len(FRAME) <= 3 * limit, "two reads of 0.2 ms each"
    assert all(port.traffic.frames_from_guest for port, _ in links), "each had its turn"
    for _, end in links:
        end.close()


def test_a_round_in_which_nobody_can_be_read_cancels_no_debt(rig: IngressRig) -> None:
    (first, one), (second, two) = rig.link_of("process 7"), rig.link_of("process 8")
    rig.turn()
    rig.turn()
    one.sendall(FRAME * 2000)
    while rig.stage.steering.has_room():
        rig.turn()
    accounts = rig.stage.ports.shares
    accounts.charge(first.guest_number, 0.0008, monotonic())
    one.sendall(FRAME)
    two.sendall(FRAME)
    for _ in range(40):
        rig.turn()
    assert accounts.order([first.guest_number, second.guest_number]) == [second.guest_number]
    one.close()
    two.close()


@pytest.mark.parametrize("ipv6", [False, True])
def test_packets_of_ipv6_become_ranges_only_while_it_is_on(ipv6: bool) -> None:
    rig = IngressRig(ipv6=ipv6)
    guest = rig.guest()
    rig.turn()
    rig.kinds()
    frames = [tcp_frame6(i * 100, b"x" * 100) for i in range(3)] + [udp_frame6(b"x" * 50)] * 2
    guest.sendall(b"".join(len(frame).to_bytes(2, "little") + frame for frame in frames))
    rig.turn()
    assert rig.kinds() == ([kinds.TCP_RANGE, kinds.UDP_RANGE] if ipv6 else [kinds.FRAME] * 5)
    guest.close()
    rig.end()


@pytest.mark.parametrize("several", [False, True])
def test_a_guest_beyond_its_rate_of_bytes_waits_and_loses_nothing(rig: IngressRig, several: bool) -> None:
    port, sender = rig.link_of("process 7")
    other = rig.link_of("process 8")[1] if several else None
    rig.stage.ports.rates.set_rate(1_000_000)
    rig.turn()
    rig.taken()
    rig.stage.ports.rates.charge(port.guest_number, 100_000 + 200_000, monotonic())
    sender.sendall(FRAME * 3)
    if other is not None:
        other.sendall(FRAME)
    rig.turn()
    rig.turn()
    assert port in rig.stage.ports.readable
    assert rig.taken() == several, "another guest is read"
    assert rig.worker.counts[INDEX["link_reads_paused_byte_rate"]] == 1
    assert monotonic() < rig.stage.deadline() < monotonic() + 0.3
    while monotonic() < rig.stage.deadline():
        continue
    rig.turn()
    rig.turn()
    assert rig.taken() == 3
    sender.close()
    if other is not None:
        other.close()


def test_what_guests_have_sent_is_reported_by_guest(rig: IngressRig) -> None:
    port, sender = rig.link_of("process 7")
    sender.sendall(FRAME * 3)
    rig.turn()
    rig.turn()
    answer = rig.stage.on_control({"op": "guests"}, [])
    guests = answer["guests"]
    assert guests[str(port.guest_number)] == {"links": 1, "bytes_from_guest": 42, "bytes_to_guest": 0}
    sender.close()


class Flood:
    """A guest whose link always has something to read, in frames of one length."""

    def __init__(self, rig: IngressRig, number: int, cost: float, links: int = 1) -> None:
        """cost: seconds of work of each frame."""
        made = [rig.link_of(f"process {number}") for _ in range(links)]
        self.ports, self.ends = [port for port, _ in made], [end for _, end in made]
        self.cost = cost
        self.frames = 0
        # It has sent many large frames before, so none of its work is small work.
        rig.stage.ports.shares.was_read(self.ports[0].guest_number, 0, 1000, 0.0, monotonic())
        self._left = [b""] * links
        for end in self.ends:
            end.setblocking(False)

    def fill(self) -> None:
        """Send what the sockets take."""
        for at, end in enumerate(self.ends):
            with suppress(BlockingIOError):
                while True:
                    left = self._left[at] or LARGE * 20
                    self._left[at] = left[end.send(left) :]

    def report(self, rig: IngressRig) -> None:
        """Demux reports the work of the frames that were read since the last time."""
        frames = sum(port.traffic.frames_from_guest for port in self.ports)
        if frames > self.frames:
            rig.worked(self.ports[0].number, (frames - self.frames) * self.cost)
            self.frames = frames


def run_floods(rig: IngressRig, floods: list[Flood], turns: int) -> None:
    """Let all guests send as much as they may, in so many steps."""
    for _ in range(turns):
        for flood in floods:
            flood.fill()
        rig.turn()
        rig.finish()
        for flood in floods:
            flood.report(rig)


def test_a_guest_whose_reads_cost_more_than_its_time_gets_no_more_than_each_of_many_others(
    rig: IngressRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "thread_time", lambda: 0.0)
    expensive = Flood(rig, 7, 0.002)
    others = [Flood(rig, number, 1e-5) for number in range(8, 16)]
    run_floods(rig, [expensive, *others], 300)
    before = [each.frames * each.cost for each in (expensive, *others)]
    run_floods(rig, [expensive, *others], 1000)
    got = [each.frames * each.cost - had for each, had in zip((expensive, *others), before, strict=True)]
    assert got[0] < 1.5 * max(got[1:]), "a read of 2 ms is paid in ten rounds of all others"
    assert min(got[1:]) > 0.7 * max(got[1:])
    for flood in (expensive, *others):
        for end in flood.ends:
            end.close()


def test_a_request_that_emptied_the_socket_counts_less_however_short_the_reads_are(rig: IngressRig) -> None:
    port, end = rig.link_of("process 7")
    _, other = rig.link_of("process 8")
    rig.turn()
    rig.turn()
    accounts = rig.stage.ports.shares
    accounts.was_read(port.guest_number, 100_000, 1, 0.5, monotonic())
    rig.worked(port.number, 0.1)
    rig.turn()
    assert accounts.read_limit(port.guest_number) == shares.LEAST_READ, "it opens connections"
    accounts.credit(port.guest_number, int(0.1 / shares.PRICE_S))
    request = (400).to_bytes(2, "little") + bytes(400)
    rig.begin_sharing(end, other)
    for _ in range(60):
        other.sendall(FRAME)
        end.sendall(request)
        rig.turn()
        rig.turn()
        rig.worked(port.number, 0.0003)
        assert rig.taken() == 2, "18 ms of work, of which a quarter counts"
    end.close()
    other.close()


def test_a_guest_with_many_links_does_not_make_one_with_a_single_link_wait_longer(
    rig: IngressRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "thread_time", lambda: 0.0)
    crowds = [Flood(rig, number, 1e-5, links=5) for number in (7, 8, 9)]
    run_floods(rig, crowds, 200)
    port, single = rig.link_of("process 10")
    rig.stage.ports.is_empty(port)
    waits = []
    for _ in range(20):
        single.sendall(LARGE)
        had = port.traffic.frames_from_guest
        steps = 0
        while port.traffic.frames_from_guest == had:
            run_floods(rig, crowds, 1)
            steps += 1
        waits.append(steps)
    assert max(waits) <= 4
    single.close()
    for flood in crowds:
        for end in flood.ends:
            end.close()
