"""What holds for all tests: Hypothesis profiles, and which tests a machine can run.

Tests marked stress take minutes and run only where -m names them (make stress). Tests marked e2e
need namespaces; where those cannot be made they are skipped with the reason, which `make test` has printed
before as well.
"""

import os
import signal

import pytest
from hypothesis import settings

from perf import compiled
from tests.support import netns

settings.register_profile("fuzz", max_examples=5000, deadline=None)


def pytest_configure() -> None:
    """SIGTERM ends a run as ctrl-C does: fixtures are torn down, namespaces removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_report_header() -> str:
    """Which code the daemons of this run are made of."""
    if system := os.environ.get("GVTAP_TEST_SYSTEM", ""):
        return f"data path of daemons: plain, as on {system}"
    why = compiled.reason()
    return f"data path of daemons: {compiled.kind()}{why and f' ({why}; make compiled)'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for, skip what this machine cannot run."""
    if "stress" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("stress")]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)
    marked = [item for item in items if item.get_closest_marker("e2e")]
    reason = netns.missing() if marked else ""
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"no namespaces: {reason}"))
