"""The table of histograms, and their place in the block."""

from pipeline import counters, histograms
from pipeline.counter_block import GUEST_ROWS, GUEST_WORDS, GUESTS_AT, CounterBlock
from pipeline.histograms import BY_NAME, TABLE


def test_names_are_unique_and_bounds_grow() -> None:
    assert len(BY_NAME) == len(TABLE)
    for row in TABLE:
        assert list(row.bounds) == sorted(set(row.bounds)), row.name
        assert row.bounds[0] > 0
        assert row.unit in (histograms.SECONDS, histograms.BYTES)
        assert row.help


def test_histograms_of_one_family_have_the_same_buckets() -> None:
    for row in TABLE:
        like = [other for other in TABLE if other.family == row.family]
        assert {(other.unit, other.bounds, other.help) for other in like} == {
            (row.unit, row.bounds, row.help)
        }
        assert len({other.direction for other in like}) == len(like)


def test_a_block_keeps_counters_histograms_and_guests_apart() -> None:
    block = CounterBlock(memoryview(bytearray(CounterBlock.BYTES)))
    for row in counters.TABLE:
        block.add(row.name)
    for histogram in TABLE:
        for bound in histogram.bounds:
            histogram.observe(block.counts, bound)
        histogram.observe(block.counts, histogram.bounds[-1] + 1)
    block.counts[GUESTS_AT] = 7
    assert set(block.snapshot().values()) == {1}
    for histogram in TABLE:
        *buckets, total = block.histogram(histogram)
        assert buckets == [1] * (len(histogram.bounds) + 1)
        assert total == sum(histogram.bounds) + histogram.bounds[-1] + 1
    assert block.guests() == [(7, 0, 0, 0, 0, 0)]
    assert CounterBlock.BYTES >= (GUESTS_AT + (GUEST_ROWS + 1) * GUEST_WORDS) * 8


def test_a_negative_time_counts_as_none() -> None:
    row = BY_NAME["tcp_rtt"]
    counts = memoryview(bytearray((row.at + row.words) * 8)).cast("Q")
    row.observe_seconds(counts, -1.0)
    assert (counts[row.at], sum(counts)) == (1, 1)
