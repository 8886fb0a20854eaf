"""How many points a worker gives itself, so that the system ends it before the supervisor."""

import os
from pathlib import Path

import pytest

from pipeline.system import oom

MIB = 1 << 20
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


@pytest.mark.parametrize(
    ("available", "expected"),
    [(64 << 30, 200), (512 * MIB, 200), (480 * MIB, 200), (200 * MIB, 480), (96 * MIB, 1000), (MIB, 1000)],
)
def test_a_point_is_worth_little_in_a_small_container(available: int, expected: int) -> None:
    assert oom.points(available) == expected
    if expected < oom.MAX_POINTS:
        assert expected * available >= oom.SUPERVISOR_BYTES * 1000 or expected == oom.POINTS


def files(directory: Path, rows: str, limits: dict[str, str]) -> int:
    """memory() of a process with these rows, where these files have limits."""
    groups = directory / "cgroup"
    groups.write_text(rows)
    for name, text in limits.items():
        path = directory / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return oom.memory(groups, directory / "fs")


@pytest.mark.parametrize(
    ("rows", "limits", "expected"),
    [
        ("0::/\n", {}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/\n", {"memory.max": f"{80 * MIB}\n"}, 80 * MIB),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{70 * MIB}\n"}, 70 * MIB),
        ("9:cpu:/x\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": f"{60 * MIB}\n"}, 60 * MIB),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        # A container sees its own group as the root, and its path outside.
        ("4:memory:/docker/1\n", {"memory/memory.limit_in_bytes": f"{50 * MIB}\n"}, 50 * MIB),
        ("4:cpu:/a\n", {"memory/a/memory.limit_in_bytes": f"{60 * MIB}\n"}, MACHINE),
    ],
)
def test_the_limit_of_the_nearest_control_group_counts(
    tmp_path: Path, rows: str, limits: dict[str, str], expected: int
) -> None:
    assert files(tmp_path, rows, limits) == expected


def test_without_control_groups_the_memory_of_the_machine_counts(tmp_path: Path) -> None:
    assert oom.memory(tmp_path / "none", tmp_path) == MACHINE
