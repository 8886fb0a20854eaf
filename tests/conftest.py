"""What holds for all tests: Hypothesis profiles, and which tests a machine can run.

Tests marked stress take minutes and run only where -m names them (make stress). Tests marked e2e
need namespaces; where those cannot be made they are skipped with the reason, which `make test` has printed
before as well.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from perf import compiled
from tests.support import netns, violations

settings.register_profile("fuzz", max_examples=5000, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends a run as ctrl-C does: fixtures are torn down, namespaces removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if _records(config):
        Path(os.environ[violations.VARIABLE]).unlink(missing_ok=True)


def _records(config: pytest.Config) -> bool:
    """Whether this process reports what workers must not do. (Those that share its tests do not.)"""
    return violations.VARIABLE in os.environ and not hasattr(config, "workerinput")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A system call that is not on a worker's list fails the run."""
    if _records(session.config) and violations.recorded() and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the system calls that are not on the lists."""
    if not _records(config):
        return
    found = violations.recorded()
    terminalreporter.section("system calls that are not on the lists of pipeline/stages", "=")
    for text, count in found.most_common() or [("none", 0)]:
        terminalreporter.write_line(f"{count:6d} {text}" if count else text)


def pytest_report_header() -> str:
    """Which code the daemons of this run are made of."""
    if system := os.environ.get("GVTAP_TEST_SYSTEM", ""):
        return f"data path of daemons: plain, as on {system}"
    why = compiled.reason()
    what = f"{compiled.kind()}{why and f' ({why}; make compiled)'}"
    path = os.environ.get(violations.VARIABLE, "")
    return f"data path of daemons: {what}{path and f'; {path} gets the calls that are not on the lists'}"


LONG_FIRST = (
    "tests/e2e/test_vm",
    "tests/e2e/test_fuzzed",
    "tests/e2e/test_fleet",
    "tests/e2e",
    "tests/daemon",
)
"""Beginnings of paths. When several processes share the files, the last ones shall be short."""


def _turn(item: pytest.Item) -> int:
    found = (turn for turn, start in enumerate(LONG_FIRST) if item.nodeid.startswith(start))
    return next(found, len(LONG_FIRST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for, skip what this machine cannot run, and run long files first."""
    items.sort(key=_turn)
    if "stress" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("stress")]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)
    marked = [item for item in items if item.get_closest_marker("e2e")]
    reason = netns.missing() if marked else ""
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"no namespaces: {reason}"))
