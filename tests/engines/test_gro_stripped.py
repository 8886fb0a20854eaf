"""GRO and what a stripped header leaves behind: checksums that are not there, 64 KiB, and priority tags."""

import pytest

from pipeline.engines.offload import gro, headers
from pipeline.records.frames import Frame
from pipeline.wire import checksum
from tests.engines.offload.test_gro import check, full_burst
from tests.support.frames import FROM_GUEST, slot_of, tcp_frame
from tests.support.gro_bursts import OTHER_VLAN, TAG
from tests.support.offload import left_out

SERVICE_TAG = bytes.fromhex("88a8e000")


@pytest.mark.parametrize("count", [1, 2, 3, 8, 44])
@pytest.mark.parametrize("size", [1448, 99, 1])
def test_segments_without_checksum_are_completed_and_merge_as_others_do(count: int, size: int) -> None:
    frames = full_burst(count, size, last=size)
    view, places = slot_of([left_out(frame) for frame in frames])
    (record,) = check(view, places)
    assert record.segments == count
    assert [bytes(view[off : off + length]) for off, length in places] == frames


def test_segments_of_64_kib_without_checksum_are_ranges() -> None:
    frames = [tcp_frame(5, b"x" * 40001), tcp_frame(40006, b"y" * 20000)]
    view, places = slot_of([left_out(frame) for frame in frames])
    assert [record.length for record in check(view, places)] == [60001]
    (record,) = check(*slot_of([left_out(tcp_frame(5, b"z" * 65495))]))
    assert (record.length, record.piece_size) == (65495, 65495)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_pseudo_header_of_another_length_is_a_wrong_checksum(count: int) -> None:
    short, long = left_out(tcp_frame(5, b"x" * 99)), tcp_frame(5, b"x" * 100)
    wrong = long[:50] + short[50:52] + long[52:]
    view, places = slot_of([wrong] * count)
    assert gro.coalesce(view, places) == ([], {headers.DROP_TCP_CHECKSUM: count})


def test_a_missing_checksum_does_not_excuse_a_wrong_ipv4_header() -> None:
    wrong = bytearray(left_out(tcp_frame(5, b"x" * 99)))
    wrong[25] ^= 1
    for count in (1, 5):
        view, places = slot_of([bytes(wrong)] * count)
        assert gro.coalesce(view, places) == ([], {headers.DROP_IPV4_CHECKSUM: count})
        assert [bytes(view[off : off + length]) for off, length in places] == [wrong] * count


@pytest.mark.parametrize("change", [(23, 17), (12, 0x86), (20, 0x20), (14, 0x46)])
def test_frames_as_long_as_segments_keep_what_looks_like_a_missing_checksum(change: tuple[int, int]) -> None:
    # Beside segments they are summed as if they were some. They must not be written to.
    at, value = change
    other = bytearray(left_out(tcp_frame(5, b"x" * 99)))
    other[at] = value
    other[24:26] = b"\0\0"
    other[24:26] = checksum.checksum(bytes(other[14:34])).to_bytes(2, "big")
    frames = [tcp_frame(5 + 99 * i, b"x" * 99) for i in range(4)]
    view, places = slot_of([*frames, bytes(other), bytes(other)])
    gro.coalesce(view, places)
    assert [bytes(view[off : off + length]) for off, length in places] == [*frames, other, other]


@pytest.mark.parametrize("partial", [False, True], ids=["whole", "without checksum"])
@pytest.mark.parametrize("tags", [TAG, SERVICE_TAG, SERVICE_TAG + TAG], ids=["802.1Q", "802.1ad", "both"])
def test_priority_tagged_segments_merge_as_others_do(tags: bytes, partial: bool) -> None:
    frames = full_burst()
    sent = [left_out(frame) if partial else frame for frame in frames]
    view, places = slot_of([frame[:12] + tags + frame[12:] for frame in sent])
    (record,) = check(view, places)
    assert record.segments == len(frames)
    assert [bytes(view[off : off + length]) for off, length in places] == frames


def test_tagged_and_untagged_segments_of_one_flow_merge_where_they_lie_at_one_stride() -> None:
    frames = full_burst(20)
    sent = [frame[:12] + TAG + frame[12:] if 5 <= i < 15 else frame for i, frame in enumerate(frames)]
    assert sum(record.segments for record in check(*slot_of(sent))) == 20


def test_short_frames_padded_to_one_length_with_and_without_tag_are_judged_each() -> None:
    acks = [tcp_frame(9, ack=i, pad_to=60) for i in range(1, 5)]
    tagged = [(frame[:12] + TAG + frame[12:])[:60] for frame in (tcp_frame(9, ack=i) for i in range(5, 9))]
    sent = [
        *acks,
        *(left_out(frame).ljust(60, b"\0") for frame in acks),
        *(f.ljust(60, b"\0") for f in tagged),
    ]
    view, places = slot_of(sent)
    check(view, places)


@pytest.mark.parametrize(
    "tags",
    [OTHER_VLAN, TAG + OTHER_VLAN, OTHER_VLAN + TAG, TAG * 3, SERVICE_TAG[:2] + b"\x10\x01"],
    ids=["VLAN 5", "VLAN 5 in it", "in VLAN 5", "three", "service VLAN"],
)
def test_what_is_in_a_vlan_is_a_frame_for_demux(tags: bytes) -> None:
    frame = tcp_frame(5, b"x" * 99)
    (record,) = check(*slot_of([frame[:12] + tags + frame[12:]]))
    assert isinstance(record, Frame)
    removed = 8 if tags == TAG * 3 else 4 if tags == TAG + OTHER_VLAN else 0
    assert (record.off, record.length) == (260 + removed, len(frame) + len(tags) - removed)


@pytest.mark.parametrize("length", [14, 15, 16, 17])
def test_a_truncated_tag_stays_where_it_is(length: int) -> None:
    frame = (FROM_GUEST[:12] + TAG + b"\x08\0")[:length]
    view, places = slot_of([frame], size=264 + length - 4)
    (record,) = check(view, places)
    assert (type(record), record.length, bytes(view[-length:])) == (Frame, length, frame)


def test_a_tagged_frame_of_nothing_but_its_header_is_a_frame() -> None:
    (record,) = check(*slot_of([FROM_GUEST[:12] + TAG + b"\x08\x06"]))
    assert (type(record), record.off, record.length) == (Frame, 264, 14)
