"""How much memory the process may use."""

import os
from pathlib import Path

import pytest

from pipeline.system import memory


def test_it_is_never_more_than_the_machine_has() -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 << 20 < memory.available_bytes() <= machine


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "self").write_text("4:memory:/x\n0::/a/b\n")
    return tmp_path


def limits(groups: Path) -> list[int]:
    return memory._group_limits(groups / "self", groups)


def test_the_limits_of_all_groups_around_count(groups: Path) -> None:
    (groups / "a/memory.max").write_text("1000\n")
    (groups / "a/b/memory.max").write_text("5000\n")
    assert limits(groups) == [5000, 1000]


def test_no_limit_and_no_file_and_nonsense_say_nothing(groups: Path) -> None:
    assert limits(groups) == []
    (groups / "a/memory.max").write_text("max\n")
    (groups / "a/b/memory.max").write_text("\xb2", encoding="latin-1")
    assert limits(groups) == []
    assert memory._group_limits(groups / "none", groups) == []
