"""ReadCredit: a flow reads what its guest's window takes, and no more."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.host.credit import FLOOR, ReadCredit

CHUNK = 65160


def test_an_open_window_takes_whole_chunks() -> None:
    credit = ReadCredit()
    credit.on_window(1 << 20)
    assert credit.room(CHUNK, 32) == CHUNK


def test_a_closed_window_takes_the_floor_once_and_then_nothing() -> None:
    credit = ReadCredit()
    credit.on_window(0)
    assert credit.room(CHUNK, 32) == FLOOR
    credit.sent(FLOOR)
    assert credit.room(CHUNK, 32) == 0
    credit.returned()
    assert credit.room(CHUNK, 32) == FLOOR


def test_a_small_remainder_of_the_window_is_not_worth_a_read() -> None:
    credit = ReadCredit()
    credit.on_window(100_000)
    credit.sent(99_000)
    assert credit.room(CHUNK, 32) == 0
    credit.on_window(130_000)
    assert credit.room(CHUNK, 32) == 31_000


def test_references_are_bounded_too() -> None:
    credit = ReadCredit()
    credit.on_window(1 << 30)
    credit.sent(1)
    credit.sent(1)
    assert credit.room(CHUNK, 2) == 0
    credit.returned()
    assert credit.room(CHUNK, 2) == CHUNK


@given(
    st.lists(st.tuples(st.sampled_from(["read", "home", "window"]), st.integers(0, 1 << 20)), max_size=80),
    st.integers(1, 65536),
)
def test_what_is_out_never_exceeds_the_largest_window_shown(steps: list[tuple[str, int]], chunk: int) -> None:
    credit = ReadCredit()
    largest = FLOOR
    credit.on_window(largest)
    lengths: list[int] = []
    for kind, number in steps:
        if kind == "read":
            room = credit.room(chunk, 16)
            assert 0 <= room <= chunk
            if room:
                length = min(room, number + 1)
                credit.sent(length)
                lengths.append(length)
        elif kind == "home" and lengths:
            credit.returned()
            del lengths[0]
        elif kind == "window":
            credit.on_window(number)
            largest = max(largest, number)
        assert (credit.out_bytes, credit.out_refs) == (sum(lengths), len(lengths))
        assert credit.out_bytes <= largest
        assert credit.out_refs <= 16
    if not lengths:
        assert credit.room(chunk, 16) > 0
