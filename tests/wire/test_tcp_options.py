"""TCP options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import tcp_options as opts
from pipeline.wire.errors import WireError
from tests.support.fuzz import mutations, parsed, u16, u32, windows

blocks = st.lists(st.tuples(u32, u32), max_size=3).map(tuple)


@given(u16, st.integers(-1, 14), st.booleans(), st.booleans(), u32, u32)
def test_options_of_a_syn_come_back(
    mss: int, wscale: int, sack_permitted: bool, has_ts: bool, ts_val: int, ts_ecr: int
) -> None:
    if not has_ts:
        ts_val = ts_ecr = 0
    data = opts.build_syn(mss, wscale, sack_permitted, has_ts, ts_val, ts_ecr)
    assert len(data) % 4 == 0
    assert len(data) <= 20
    want = opts.Options(mss, wscale, sack_permitted, (), ts_val, ts_ecr, has_ts)
    assert opts.parse(memoryview(b"-" + data), 1, 1 + len(data)) == want


@given(st.booleans(), u32, u32, blocks)
def test_options_of_other_segments_come_back(
    has_ts: bool, ts_val: int, ts_ecr: int, sack: tuple[tuple[int, int], ...]
) -> None:
    if not has_ts:
        ts_val = ts_ecr = 0
    data = opts.build(has_ts, ts_val, ts_ecr, sack)
    assert len(data) % 4 == 0
    want = opts.Options(sack=sack, ts_val=ts_val, ts_ecr=ts_ecr, has_ts=has_ts)
    assert opts.parse(memoryview(data), 0, len(data)) == want


@pytest.mark.parametrize("has_ts, fit", [(False, 4), (True, 3)])
def test_sack_blocks_that_do_not_fit_are_left_out(has_ts: bool, fit: int) -> None:
    sack = tuple((n, n + 1) for n in range(6))
    data = opts.build(has_ts, 1, 2, sack)
    assert len(data) <= 40
    assert opts.parse(data, 0, len(data)).sack == sack[:fit]


def test_timestamps_have_the_form_that_every_stack_sends() -> None:
    assert opts.build(True, 0x01020304, 0x05060708).hex() == "0101080a0102030405060708"


def test_the_short_way_for_timestamps_agrees_with_the_long_one() -> None:
    # Same option at another place: end of list behind it makes the list longer than twelve.
    data = opts.build(True, 7, 8)
    assert opts.parse(data, 0, 12) == opts.parse(data + b"\0\0\0\0", 0, 16)
    # Twelve bytes which are not that form go the long way.
    other = bytes.fromhex("080a0000000700000008 0101".replace(" ", ""))
    assert opts.parse(other, 0, 12) == opts.parse(data, 0, 12)


@pytest.mark.parametrize(
    "data, want",
    [
        ("", opts.NONE),
        ("00", opts.NONE),
        ("01010101", opts.NONE),
        ("0002ffff", opts.NONE),
        ("fd04aaaa020405b4", opts.Options(mss=1460)),
        ("030e", None),
        ("03030e00", opts.Options(wscale=14)),
        ("03030f00", opts.Options(wscale=14)),
        ("0303ff00", opts.Options(wscale=14)),
        ("04020000", opts.Options(sack_permitted=True)),
        ("02", None),
        ("0200", None),
        ("0201", None),
        ("fd00", None),
        ("020305", None),
        ("0205000000", None),
        ("02040500020405b4", opts.Options(mss=1460)),
        ("0502", None),
        ("05060a0b0c0d", None),
        ("050b" + "00" * 9, None),
        ("050a" + "0000000100000002", opts.Options(sack=((1, 2),))),
        ("080a00000001000000", None),
        ("08090000000100000002", None),
    ],
)
def test_each_form_of_an_option(data: str, want: opts.Options | None) -> None:
    raw = bytes.fromhex(data)
    if want is None:
        with pytest.raises(WireError, match="tcp_segment_dropped_bad_options"):
            opts.parse(raw, 0, len(raw))
    else:
        assert opts.parse(raw, 0, len(raw)) == want


@given(windows(44))
def test_any_bytes_are_options_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    parsed(opts.parse, *window)


@given(
    mutations(opts.build_syn(1460, 7, True, True, 1, 0)) | mutations(opts.build(True, 1, 2, ((3, 4), (5, 6))))
)
def test_damaged_options_are_read_or_refused_by_name(data: bytes) -> None:
    options = parsed(opts.parse, data, 0, len(data))
    if options is not None:
        assert -1 <= options.wscale <= opts.MAX_WINDOW_SCALE
        assert len(options.sack) <= opts.MAX_SACK_BLOCKS
