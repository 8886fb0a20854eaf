"""SEG.LEN counts SYN and FIN."""

import pytest

from pipeline.engines.tcp.segment import Segment, seg_len
from pipeline.wire.tcp import ACK, FIN, RST, SYN


@pytest.mark.parametrize(
    "flags, length, expected",
    [
        (ACK, 0, 0),
        (ACK, 10, 10),
        (SYN, 0, 1),
        (FIN | ACK, 0, 1),
        (FIN | ACK, 5, 6),
        (SYN | FIN, 2, 4),
        (RST, 0, 0),
    ],
)
def test_seg_len_counts_octets_and_controls(flags: int, length: int, expected: int) -> None:
    assert seg_len(Segment(0, 0, flags, 0, length)) == expected


def test_a_segment_is_cut_to_its_first_bytes_and_loses_its_fin() -> None:
    seg = Segment(1, 2, FIN | ACK, 3, 100, "all", 4, 5, True, ((6, 7),), 8, 9, True, 10)
    cut = seg.cut(40, "some")
    assert (cut.flags, cut.length, cut.buf) == (ACK, 40, "some")
    same = set(Segment.__slots__) - {"flags", "length", "buf"}
    assert {name: getattr(cut, name) for name in same} == {name: getattr(seg, name) for name in same}


def test_a_bare_segment_has_no_options_and_no_handle() -> None:
    seg = Segment(1, 2, ACK, 3)
    assert (seg.buf, seg.mss, seg.wscale, seg.sack, seg.has_ts, seg.seg_count) == (None, 0, -1, (), False, 1)
