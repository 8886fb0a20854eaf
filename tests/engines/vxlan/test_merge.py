"""Merging trains of frames: what remains, cut again, is what has arrived."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.offload import tso
from pipeline.engines.vxlan import merge
from pipeline.wire import tcp, virtio_net
from tests.support.frames import slot_of, tcp_frame, tcp_frame6, timestamps, udp_frame

TUNNEL_LEN = 8


def merged(frames: list[bytes]) -> tuple[list[tuple[virtio_net.Header, bytes]], dict[str, int]]:
    """The frames that remain of a train, each with its header."""
    view, places = slot_of(frames, begin=256 + 4, gaps=TUNNEL_LEN)
    found, drops = merge.merge(view, places)
    last = 0
    for off, length in found:
        assert off - merge.VNET_LEN >= last, "the header has room of its own"
        last = off + length
    return [
        (
            virtio_net.Header(*virtio_net.LONG.unpack_from(view, off - merge.VNET_LEN)),
            bytes(view[off : off + length]),
        )
        for off, length in found
    ], drops


def cut_again(found: list[tuple[virtio_net.Header, bytes]]) -> list[bytes]:
    frames: list[bytes] = []
    for header, frame in found:
        if header.gso_type:
            assert len(frame) - header.hdr_len > header.gso_size
            frames += [bytes(each) for each in tso.cut(memoryview(frame), header)]
        else:
            assert not header.flags & virtio_net.NEEDS_CSUM
            frames.append(frame)
    return frames


def segments(count: int, size: int, last: int, make: object, **more: object) -> list[bytes]:
    """Consecutive segments, the last of which has ``last`` bytes."""
    assert callable(make)
    found = []
    for number in range(count):
        length = last if number == count - 1 else size
        payload = bytes((number * 7 + at) & 0xFF for at in range(length))
        found.append(make(1000 + number * size, payload, **more))
    return found


@given(
    count=st.integers(1, 45),
    size=st.integers(48, 1448),
    short=st.integers(0, 1447),
    options=st.sampled_from([b"", timestamps()]),
    make=st.sampled_from([tcp_frame, tcp_frame6]),
)
@settings(deadline=None, max_examples=60)
def test_a_train_of_one_flow_becomes_one_frame(
    count: int, size: int, short: int, options: bytes, make: object
) -> None:
    frames = segments(count, size, max(size - short, 1), make, options=options)
    found, drops = merged(frames)
    assert drops == {}
    assert len(found) == 1
    for each, expected in zip(cut_again(found), frames, strict=True):
        # The identification of IPv4 counts up, and with DF it means nothing (RFC 6864).
        assert each[:18] == expected[:18]
        assert each[26:] == expected[26:]


def test_the_last_segment_keeps_its_push() -> None:
    frames = segments(3, 100, 100, tcp_frame)
    frames[-1] = tcp_frame(1200, bytes(frames[-1][54:]), flags=tcp.ACK | tcp.PSH)
    found, _ = merged(frames)
    flags = [each[47] for each in cut_again(found)]
    assert flags == [tcp.ACK, tcp.ACK, tcp.ACK | tcp.PSH]


def test_a_wrong_checksum_drops_its_frame_alone() -> None:
    frames = segments(5, 100, 100, tcp_frame)
    frames[2] = frames[2][:-1] + b"\xff"
    found, drops = merged(frames)
    assert drops == {"tcp_segment_dropped_bad_checksum": 1}
    assert [each[54:] for each in cut_again(found)] == [
        frame[54:] for number, frame in enumerate(frames) if number != 2
    ]


KINDS = st.sampled_from(
    [
        tcp_frame(1, b"a" * 60),
        tcp_frame(61, b"a" * 60),
        tcp_frame(121, b"a" * 60),
        udp_frame(b"b" * 72),
        b"\xff" * 6 + b"\2" * 6 + b"\x08\x06" + bytes(100),
        tcp_frame6(1, b"c" * 40),
    ]
)


@given(st.lists(KINDS, max_size=64))
@settings(deadline=None)
def test_frames_of_several_flows_stay_what_they_are(frames: list[bytes]) -> None:
    found, drops = merged(frames)
    assert drops == {}
    again = cut_again(found)
    assert [each[26:] for each in again] == [each[26:] for each in frames]


@given(st.lists(st.binary(max_size=120), max_size=40))
@settings(deadline=None)
def test_any_bytes_pass_or_are_counted(frames: list[bytes]) -> None:
    found, drops = merged(frames)
    assert len(found) + sum(drops.values()) == len(frames)


def test_frames_of_an_impossible_train_are_dropped() -> None:
    found, drops = merged([b"\2" * 14] * (merge.MAX_FRAMES + 5))
    assert len(found) == merge.MAX_FRAMES
    assert drops == {merge.DROP_TOO_MANY: 5}


@given(st.lists(st.sampled_from([b"aaaaaaaa", b"aaaaaaab", b"baaaaaaa"]), min_size=1), st.integers(1, 9))
def test_datagrams_with_the_same_beginning_are_counted(datagrams: list[bytes], length: int) -> None:
    heads = [each[:length] for each in datagrams]
    expected = next((at for at, head in enumerate(heads) if head != heads[0]), len(heads))
    view = memoryview(bytearray(b"###" + b"".join(datagrams)))
    assert merge.count_alike(view, 3, 8, len(datagrams), length) == expected
