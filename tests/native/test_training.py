"""A build with a profile: what it runs, with which options, and what it says when that fails."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

SETUP = """
import json, os, pathlib, sys
pathlib.Path("said.json").write_text(json.dumps([sys.argv[1:], os.environ["GVTAP_PROFILE"]]))
"""


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, in a checkout that has nothing yet."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("training", ROOT / "native" / "training.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ("value", "begins"), [("", ""), ("0", ""), ("1", "-fprofile-use="), ("counting", "-fprofile-generate=")]
)
def test_the_variable_says_which_options_gcc_gets(
    training: Any, monkeypatch: pytest.MonkeyPatch, value: str, begins: str
) -> None:
    monkeypatch.setenv("GVTAP_PROFILE", value)
    options = training.c_options()
    assert bool(options) == bool(begins)
    assert not options or options[0].startswith(begins)
    assert training.wanted() == (value == "1")


def test_both_builds_have_their_objects_at_one_place_where_gcc_finds_the_counters(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("setup.py").write_text(SETUP)
    tmp_path.joinpath("perf", "micro").mkdir(parents=True)
    tmp_path.joinpath("perf", "micro", "seen.py").write_text(
        "import sys, pathlib; pathlib.Path('seen.txt').write_text(repr((sys.argv[1:], sys.path[:2])))"
    )
    monkeypatch.setattr(training, "RUNS", (("seen", "--ipv6"),))
    monkeypatch.setenv("GVTAP_PROFILE", "1")
    training.train("/objects")
    argv, variable = json.loads(tmp_path.joinpath("said.json").read_text())
    assert argv[-2:] == ["--build-temp", "/objects"]
    assert variable == "counting", "the first build must not train again"
    made = tmp_path / "build" / "profile" / "made"
    assert tmp_path.joinpath("seen.txt").read_text() == repr((["--ipv6"], [str(made), str(tmp_path)]))


def test_a_benchmark_that_fails_ends_the_build_and_is_named(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("setup.py").write_text(SETUP)
    monkeypatch.setattr(training, "RUNS", (("missing",),))
    with pytest.raises(training.TrainingError, match=r"missing failed: .*No module named"):
        training.train("/objects")


def test_each_benchmark_of_a_training_is_there(training: Any) -> None:
    for name, *_ in training.RUNS:
        assert ROOT.joinpath("perf", "micro", f"{name}.py").exists()
