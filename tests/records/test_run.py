"""Where the bytes of a run lie."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.records.run import Run

SLOT = bytes(range(251)) * 300
VIEW = memoryview(SLOT)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A run in SLOT."""
    piece_size = draw(st.integers(1, 60))
    skip = draw(st.integers(0, 3 * piece_size))
    length = draw(st.integers(0, 20 * piece_size))
    stride = piece_size + draw(st.integers(0, 40))
    return Run(3, draw(st.integers(0, 500)), length, stride, piece_size, skip)


def by_the_formula(run: Run) -> bytes:
    """The bytes of a run, one by one."""
    return bytes(
        SLOT[run.off + (run.skip + i) // run.piece_size * run.stride + (run.skip + i) % run.piece_size]
        for i in range(run.length)
    )


@given(runs())
def test_pieces_are_what_the_formula_says(run: Run) -> None:
    views = run.views(VIEW)
    assert b"".join(views) == by_the_formula(run)
    assert [bytes(SLOT[begin:end]) for begin, end in run.piece_bounds()] == [bytes(view) for view in views]
    assert len(views) == run.piece_count()


@given(runs())
def test_no_piece_is_longer_than_a_piece_and_none_is_empty(run: Run) -> None:
    lengths = [end - begin for begin, end in run.piece_bounds()]
    assert max(lengths) <= run.piece_size
    assert min(lengths) > 0 or lengths == [0]


@given(runs(), st.data())
def test_what_is_dropped_from_the_front_is_gone(run: Run, data: st.DataObject) -> None:
    before = by_the_formula(run)
    count = data.draw(st.integers(0, run.length))
    run.drop_front(count)
    assert b"".join(run.views(VIEW)) == before[count:]


def test_one_piece_needs_neither_stride_nor_size() -> None:
    for run in (Run(0, 100, 7, 0, 7), Run(0, 100, 7, 0, 0), Run(0, 100, 0, 0, 0)):
        assert run.piece_count() == 1
        assert run.piece_bounds() == [(100, 100 + run.length)]
        assert run.views(VIEW) == [VIEW[100 : 100 + run.length]]
