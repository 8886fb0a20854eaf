"""What a process in its sandbox can do that needs several of its parts."""

import importlib
import sys
from pathlib import Path

import pytest

from pipeline.stages import system_calls
from pipeline.stages.resolver import system_calls as resolver
from pipeline.system.sandbox import enter, libseccomp
from tests.support.in_child import in_child

pytestmark = pytest.mark.skipif(libseccomp.shortage() != "", reason="this system cannot filter calls")


def test_a_library_without_bytecode_is_loaded_late_and_nothing_is_written(tmp_path: Path) -> None:
    """A resolver in a strict sandbox was killed when a guest asked for a rare record."""
    (tmp_path / "late.py").write_text("VALUE = 7\n")

    def run() -> object:
        sys.dont_write_bytecode = False
        sys.path.insert(0, str(tmp_path))
        calls = (*system_calls.COMMON, *resolver.CALLS)
        profile = enter.Profile(calls, fruitless=system_calls.FRUITLESS, readable=("/usr", str(tmp_path)))
        enter.enter(profile, strict=True)
        return importlib.import_module("late").VALUE

    assert in_child(run) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["late.py"]
