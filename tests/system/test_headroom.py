"""Whether there is memory for one more."""

import resource
from pathlib import Path

from pipeline.system import headroom
from pipeline.system.headroom import ROOM, ROOM_EACH, STEP, Headroom
from tests.support.in_child import in_child

MIB = 1 << 20


def test_only_more_than_there_ever_were_need_a_look() -> None:
    looks: list[int] = []
    has_room = True

    def look(size: int) -> bool:
        looks.append(size)
        return has_room

    room = Headroom(look)
    for held in range(STEP):
        assert not room.is_short(held)
    assert looks == [ROOM]
    assert not room.is_short(STEP)
    assert looks == [ROOM, ROOM + STEP * ROOM_EACH]
    has_room = False
    assert room.is_short(2 * STEP)
    assert room.is_short(2 * STEP)
    assert len(looks) == 4
    # Others have ended: their memory is there.
    assert not room.is_short(2 * STEP - 1)
    assert len(looks) == 4


def test_a_limit_of_the_process_counts_before_an_allocation_fails() -> None:
    def run() -> list[bool]:
        status = Path("/proc/self/status").read_text()
        used = int(next(line for line in status.splitlines() if line.startswith("VmSize:")).split()[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (used + 8 * MIB, resource.RLIM_INFINITY))
        return [headroom.can_have(4 * MIB), headroom.can_have(16 * MIB), headroom.can_have(4 * MIB)]

    assert in_child(run) == [True, False, True]
