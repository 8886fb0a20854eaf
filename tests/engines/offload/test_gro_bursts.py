"""GRO says of every frame of any burst what the plain walk of test_gro.py says of it."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.offload.test_gro import BOTH, check
from tests.support.frames import Family, slot_of, timestamps
from tests.support.gro_bursts import STEPS, Flow, Step

BURSTS = st.lists(
    st.builds(
        Step,
        st.integers(0, 4),
        st.sampled_from(STEPS),
        st.sampled_from([1, 7, 100, 100, 100, 600]),
        st.sampled_from([1, 1, 2, 5, 14]),
    ),
    max_size=9,
)


@given(
    steps=BURSTS,
    timed=st.booleans(),
    begin=st.integers(0, 3),
    gaps=st.sampled_from([[2], [4], [0], [3], [4, 4, 9], [6, 4, 4, 4, 4, 4, 4]]),
    verify=st.booleans(),
)
@settings(max_examples=600, deadline=None)
def test_expanding_the_records_gives_what_the_plain_walk_says(
    steps: list[Step], timed: bool, begin: int, gaps: list[int], verify: bool
) -> None:
    flows = [Flow(number, timed, "IPv4" if number < 3 else "IPv6") for number in range(5)]
    frames = [flows[step.flow].make(step.what, step.size) for step in steps for _ in range(step.repeat)]
    size = begin + sum(map(len, frames)) + len(frames) * max(gaps)
    view, places = slot_of(frames, begin, gaps, size)
    if frames and size == places[-1][0] + places[-1][1]:
        assert len(view) == places[-1][0] + len(frames[-1]), "a frame may end where the memory ends"
    check(view, places, verify)


@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(1, 120), max_size=40))
@settings(deadline=None)
def test_any_bytes_are_judged_without_an_exception(data: bytes, cuts: list[int]) -> None:
    places, off = [], 0
    for cut in cuts:
        if off + cut <= len(data):
            places.append((off, cut))
            off += cut
    check(memoryview(bytearray(data)), places)


@BOTH
def test_random_damage_to_a_uniform_burst_is_found_frame_by_frame(family: Family) -> None:
    rng = random.Random(5)
    for _ in range(150):
        frames = [family.tcp_frame(i * 1000, rng.randbytes(1000), options=timestamps()) for i in range(30)]
        view, places = slot_of(frames)
        for _ in range(rng.randint(1, 3)):
            off, length = rng.choice(places)
            view[off + rng.randrange(length)] ^= 1 << rng.randrange(8)
        check(view, places)
