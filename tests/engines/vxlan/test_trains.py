"""Frames in chunks: whatever happens to the datagrams on their way, a frame comes whole or counts as lost."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.vxlan import trains as receiver
from pipeline.engines.vxlan.train import Packer
from pipeline.engines.vxlan.trains import MAX_OF_HOST, MAX_PARTIALS, Trains
from pipeline.wire import vxlan_train
from pipeline.wire.vxlan_train import HEADER_LEN, MAX_CHUNK, MAX_TOTAL, MIN_CHUNK

VNI = 7
VNET = bytes(range(200, 212))
PITCH = 1472
PITCHES = st.sampled_from([PITCH, HEADER_LEN + MIN_CHUNK, HEADER_LEN + MAX_CHUNK]) | st.integers(82, 9000)


def frame_of(length: int, seed: int = 0) -> bytes:
    return random.Random(length * 31 + seed).randbytes(length)


def datagrams_of(packer: Packer, frame: bytes, pitch: int = PITCH) -> list[bytes]:
    made = bytes(packer.pack(frame, VNET, pitch))
    return [made[at : at + pitch] for at in range(0, len(made), pitch)]


class Receiver:
    """The receiving end. Datagrams come in buffers, as the kernel hands them over."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        self.trains = Trains(VNI, self._drop)
        self.frames: list[bytes] = []
        self.hosts: list[int] = []

    def _drop(self, reason: str, count: int) -> None:
        self.drops[reason] += count

    def receive(self, datagrams: Sequence[bytes], host: int = 0) -> None:
        """Datagrams of equal length, of which the last may be shorter."""
        buffer = memoryview(bytearray(b"".join(datagrams)))
        pitch = len(datagrams[0])
        begin, taken = 0, 0
        while begin < len(buffer):
            stop, total = self.trains.add(buffer, begin, len(buffer), pitch, host)
            assert stop > begin
            assert stop == len(buffer) or not (stop - begin) % pitch
            if total:
                made = memoryview(bytearray(12 + total))
                receiver.join(buffer, begin, pitch, total, made, 12)
                self._add(made)
            taken += 1
            begin = stop
        assert taken <= len(datagrams)
        while self.trains.whole:
            whole = self.trains.whole.popleft()
            made = memoryview(bytearray(12 + whole.total))
            whole.put(made, 12)
            self._add(made)
            self.hosts.append(whole.host)

    def _add(self, made: memoryview) -> None:
        assert made[:12] == VNET
        self.frames.append(bytes(made[12:-12]))


def as_kernel(datagrams: Sequence[bytes]) -> list[list[bytes]]:
    """The buffers in which a kernel hands over datagrams that arrive in this order."""
    buffers: list[list[bytes]] = []
    for datagram in datagrams:
        last = buffers[-1] if buffers else []
        if last and len(last) < 64 and len(last[-1]) == len(last[0]) >= len(datagram):
            last.append(datagram)
        else:
            buffers.append([datagram])
    return buffers


@given(
    length=st.integers(14, 4000)
    | st.integers(14, MAX_TOTAL - 12)
    | st.sampled_from([64386 - 12, MAX_TOTAL - 12]),
    pitch=PITCHES,
)
@settings(deadline=None, max_examples=150)
def test_a_train_that_arrives_together_is_its_frame(length: int, pitch: int) -> None:
    frame = frame_of(length)
    datagrams = datagrams_of(Packer(VNI), frame, pitch)
    assert all(len(each) == pitch for each in datagrams[:-1])
    assert HEADER_LEN < len(datagrams[-1]) <= pitch
    got = Receiver()
    got.receive(datagrams)
    assert got.frames == [frame]
    assert not got.drops
    assert len(got.trains) == 0


@given(
    lengths=st.lists(st.integers(14, 9000), min_size=1, max_size=5),
    pitch=st.sampled_from([82, 300, PITCH]),
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0, 0, 0.02, 0.3]),
    repeat=st.sampled_from([0, 0, 0.1]),
    shuffled=st.sampled_from([0, 1, 2]),
    alone=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_whatever_the_network_does_a_frame_is_whole_or_lost(
    lengths: list[int],
    pitch: int,
    seed: int,
    loss: float,
    repeat: float,
    shuffled: int,
    alone: bool,
) -> None:
    chance = random.Random(seed)
    packer = Packer(VNI)
    frames = [frame_of(length, number) for number, length in enumerate(lengths)]
    sent = [datagram for frame in frames for datagram in datagrams_of(packer, frame, pitch)]
    kept = [each for each in sent if chance.random() >= loss]
    kept += [each for each in kept if chance.random() < repeat]
    if shuffled == 1:
        chance.shuffle(kept)
    elif shuffled:
        kept = [each for _, each in sorted(enumerate(kept), key=lambda pair: pair[0] + chance.random() * 5)]
    got = Receiver()
    for buffer in [[each] for each in kept] if alone else as_kernel(kept):
        got.receive(buffer)
    assert len(got.trains) <= MAX_OF_HOST
    got.trains.age()
    got.trains.age()
    assert len(got.trains) == 0
    assert set(got.frames) <= set(frames), "no frame has bytes of another one"
    if not repeat:
        assert len(got.frames) == len(set(got.frames))
        assert not got.drops["vxlan_datagram_dropped_malformed"]
        if len(kept) == len(sent):
            assert Counter(got.frames) == Counter(frames)
        lost = len(frames) - len(got.frames)
        assert got.drops["vxlan_frame_dropped_incomplete"] <= lost
    if len(kept) == len(sent) and not shuffled and not repeat:
        assert got.frames == frames, "in order"


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_any_datagrams_cost_a_counter_at_most(data: st.DataObject) -> None:
    got = Receiver()
    packer = Packer(VNI)
    for _ in range(data.draw(st.integers(1, 6))):
        datagrams = datagrams_of(packer, frame_of(data.draw(st.integers(14, 3000))), 300)
        for _ in range(data.draw(st.integers(0, 3))):
            which = data.draw(st.integers(0, len(datagrams) - 1))
            at = data.draw(st.integers(0, min(HEADER_LEN, len(datagrams[which])) - 1))
            changed = bytearray(datagrams[which])
            changed[at] = data.draw(st.integers(0, 255))
            datagrams[which] = bytes(changed)
        if data.draw(st.booleans()):
            datagrams.append(data.draw(st.binary(min_size=1, max_size=300)))
        for buffer in as_kernel(datagrams):
            # join() is for trains of the kernel alone, so VNET is not what comes before each frame here.
            begin, view = 0, memoryview(bytearray(b"".join(buffer)))
            while begin < len(view):
                stop, total = got.trains.add(view, begin, len(view), len(buffer[0]), 0)
                assert begin < stop <= len(view)
                assert not total or total <= stop - begin
                begin = stop
    assert len(got.trains) <= MAX_OF_HOST


def test_trains_of_different_hosts_do_not_mix() -> None:
    got = Receiver()
    one, other = frame_of(3000, 1), frame_of(3000, 2)
    first, second = datagrams_of(Packer(VNI), one), datagrams_of(Packer(VNI), other)
    got.receive(first[:2], host=0)
    got.receive(second[1:], host=1)
    got.receive(first[2:], host=0)
    got.receive(second[:1], host=1)
    assert got.frames == [one, other]
    assert got.hosts == [0, 1]


def test_a_train_behind_one_that_comes_in_pieces_waits_for_its_turn() -> None:
    got = Receiver()
    packer = Packer(VNI)
    # The last chunk of the first train is as long as the others. So the kernel sees no end of it.
    frames = [frame_of(2 * (PITCH - HEADER_LEN) - 12), frame_of(3000, 2)]
    (*early, late), after = (datagrams_of(packer, frame) for frame in frames)
    got.receive(early)
    got.receive([late, *after])
    assert got.frames == frames


def test_memory_is_bounded_and_the_oldest_train_of_the_busiest_host_is_lost() -> None:
    got = Receiver()
    packer = Packer(VNI)
    for host in range(4):
        for _ in range(MAX_OF_HOST + 2):
            got.receive(datagrams_of(packer, frame_of(5000))[:1], host)
    assert len(got.trains) == MAX_PARTIALS
    assert got.drops == {"vxlan_frame_dropped_incomplete": 8}
    newest = datagrams_of(packer, frame_of(5000))
    got.receive(newest[:1], 9)
    assert len(got.trains) == MAX_PARTIALS
    got.receive(newest[1:], 9)
    assert got.frames == [frame_of(5000)]
    for host in (0, 1, 2, 3, 9):
        got.trains.forget_host(host)
    assert len(got.trains) == 0
    assert got.drops == {"vxlan_frame_dropped_incomplete": 8 + MAX_PARTIALS}


def test_a_train_that_does_not_go_on_is_lost() -> None:
    got = Receiver()
    datagrams = datagrams_of(Packer(VNI), frame_of(5000))
    got.receive(datagrams[:1])
    got.trains.age()
    got.receive(datagrams[1:2])
    got.trains.age()
    assert not got.drops
    got.trains.age()
    assert got.drops == {"vxlan_frame_dropped_incomplete": 1}


def test_chunks_of_an_earlier_run_of_the_host_complete_no_train() -> None:
    """All runs begin somewhere else. Nobody sums the payload of a train, so a mixed one would pass."""
    got = Receiver()
    runs = [datagrams_of(Packer(VNI, last), bytes((last & 0xFF,)) * 5000) for last in (0x1F0FF, 0xFFFFFFFF)]
    got.receive(runs[0][1:])
    for datagram in runs[1]:
        got.receive([datagram])
    assert got.frames == [b"\xff" * 5000]
    assert not got.drops


def header(number: int = 0, total: int = 5000, chunk_len: int = 1454, **more: int) -> bytes:
    fields = {"mark": vxlan_train.MARK, "kind": vxlan_train.CHUNK, "network": VNI << 8, **more}
    return vxlan_train.CHUNK_HEADER.pack(
        fields["mark"], fields["kind"], number, fields["network"], 1, total, chunk_len
    )


@pytest.mark.parametrize(
    "datagram",
    [
        header()[:10],
        header(),
        header(kind=9) + bytes(1454),
        header(network=8 << 8) + bytes(1454),
        header(network=VNI << 8 | 1) + bytes(1454),
        header(number=4) + bytes(1454),
        header(number=0xFFFF) + bytes(1454),
        header() + bytes(1453),
        header() + bytes(1455),
        header(number=3) + bytes(5000 - 3 * 1454 + 1),
        header(total=25) + bytes(25),
        header(total=0) + bytes(1),
        header(total=MAX_TOTAL + 1) + bytes(1454),
        header(total=0xFFFFFFFF) + bytes(1454),
        header(chunk_len=0) + bytes(1454),
        header(chunk_len=1, total=30) + bytes(1),
        header(chunk_len=0xFFFF) + bytes(1454),
    ],
)
def test_chunks_that_contradict_themselves_are_counted(datagram: bytes) -> None:
    got = Receiver()
    got.receive([datagram])
    assert got.drops == {"vxlan_datagram_dropped_malformed": 1}
    assert len(got.trains) == 0


def test_chunks_that_contradict_their_train_are_counted() -> None:
    got = Receiver()
    got.receive([header(0) + bytes(1454)])
    for wrong in (header(0), header(1, total=5001), header(1, chunk_len=1453)):
        size = 1453 if wrong == header(1, chunk_len=1453) else 1454
        got.receive([wrong + bytes(size)])
    assert got.drops == {"vxlan_datagram_dropped_malformed": 3}
    assert len(got.trains) == 1


def test_numbers_of_trains_begin_again() -> None:
    packer = Packer(VNI)
    packer._train = 0xFFFFFFFE
    got = Receiver()
    for number in range(4):
        got.receive(datagrams_of(packer, frame_of(3000, number)))
    assert got.frames == [frame_of(3000, number) for number in range(4)]
