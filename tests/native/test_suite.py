"""The tests of rings and bells, with both compiled."""

import os

import pytest

from tests.support.twin import compiled_python, require_compiled

FILES = ("tests/ipc/test_ring.py", "tests/ipc/test_wake.py", "tests/ipc/test_ring_stress.py")
REPLACES_PARTS = "gets_a_fence_around_each_counter"
"""Compiled code cannot be patched, so this test is for the plain sources alone."""


@pytest.mark.parametrize("file", FILES)
def test_compiled_rings_and_bells_pass_their_tests(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiled()
    monkeypatch.setenv("GVTAP_TEST_PLAIN", "1")
    monkeypatch.setenv("STRESS_MESSAGES", os.environ.get("STRESS_MESSAGES", "100000"))
    arguments = ["-q", "-o", "pythonpath=", "-p", "no:cacheprovider", "-k", f"not {REPLACES_PARTS}", file]
    code = "import sys, pytest; from pipeline.ipc import ring, wake\n"
    code += "assert not ring.__file__.endswith('.py') and not wake.__file__.endswith('.py')\n"
    code += f"sys.exit(pytest.main({arguments!r}))"
    assert compiled_python(code).wait() == 0
