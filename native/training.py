"""Finds out what runs often in the compiled data path, so that gcc can compile it for that (GVTAP_PROFILE=1).

A build compiles the sources with counters, runs the micro benchmarks with them, and then compiles the same
sources with what was counted. gcc then knows which way a branch goes most often, what to inline, and what
never runs (docs/decisions.md has what that saves).

The benchmarks import what the program needs. So such a build runs without isolation (make wheel PROFILE=1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "GVTAP_PROFILE"
COUNTING: Final = "counting"
"""The variable's value in the first of the two builds."""
PLACE: Final = Path("build", "profile").resolve()
"""Where the counters are written, and the first build is made."""
RUNS: Final = (
    ("round_trip",),
    ("round_trip", "--ipv6"),
    ("connection",),
    ("connection", "--ipv6"),
    ("bulk",),
    ("bulk", "--ipv6"),
)
"""What guests do most: small exchanges, connections, and bulk data in both directions."""
COUNT: Final = (f"-fprofile-generate={PLACE / 'counters'}",)
USE: Final = (
    f"-fprofile-use={PLACE / 'counters'}",
    # What the runs do not reach is compiled as without a profile, not for size.
    "-fprofile-partial-training",
    "-Wno-missing-profile",
    # mypyc asks for -Werror, and gcc warns of calls that no run has made.
    "-Wno-error",
)


def forget() -> None:
    """Remove the first build and the counters."""
    shutil.rmtree(PLACE, ignore_errors=True)


class TrainingError(Exception):
    """The sources could not be compiled with counters, or a benchmark failed. The text says which."""


def wanted() -> bool:
    """Whether this build is to have a profile."""
    return os.environ.get(VARIABLE, "") not in ("", "0", COUNTING)


def c_options() -> tuple[str, ...]:
    """The options of gcc for this build."""
    if os.environ.get(VARIABLE, "") == COUNTING:
        return COUNT
    return USE if wanted() else ()


def train(build_temp: str) -> None:
    """Make the profile. build_temp: where the build has its objects: gcc finds counters by these names.

    Raises TrainingError.
    """
    forget()
    made = PLACE / "made"
    environment = {**os.environ, VARIABLE: COUNTING, "GVTAP_COMPILE": "1"}
    argv = ["setup.py", "-q", "build", "--build-lib", str(made), "--build-temp", build_temp]
    _run("the build with counters", argv, environment)
    environment["PYTHONPATH"] = os.pathsep.join([str(made), str(Path.cwd())])
    for name, *words in RUNS:
        _run(" ".join((name, *words)), ["-P", "-m", f"perf.micro.{name}", *words], environment)


def _run(what: str, argv: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, *argv], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise TrainingError(f"{what} failed: {' '.join(done.stdout.splitlines()[-1:])}")
