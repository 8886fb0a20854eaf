"""Initial sequence numbers (RFC 6528)."""

from pipeline.engines.tcp.isn import initial_sequence_number as isn
from pipeline.engines.tcp.seq import diff
from pipeline.wire import ip

KEY = b"0123456789abcdef"
PAIR = (ip.from_ipv4(0xC0A87F02), 40000, ip.from_ipv4(0x01020304), 80)


def test_numbers_of_one_pair_grow_four_microseconds_apart() -> None:
    assert diff(isn(KEY, *PAIR, 11.0), isn(KEY, *PAIR, 10.0)) == 250_000


def test_numbers_stay_32_bits_over_long_uptimes() -> None:
    for now in (0.0, 17_179.0, 17_180.0, 1e7):
        assert 0 <= isn(KEY, *PAIR, now) <= 0xFFFFFFFF


def test_each_part_of_the_pair_and_the_key_matter() -> None:
    values = {isn(KEY, *PAIR, 1.0), isn(b"another key 1234", *PAIR, 1.0)}
    for index in range(4):
        changed = list(PAIR)
        changed[index] += 1
        values.add(isn(KEY, *changed, 1.0))
    assert len(values) == 6
