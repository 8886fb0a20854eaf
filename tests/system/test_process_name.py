"""The name of a process, in a process of its own."""

import subprocess
import sys

import pytest

_SCRIPT = """
import sys
from pipeline.system import process_name
process_name.set_name(sys.argv[1])
print(open("/proc/self/comm").read(), end="")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the name is Linux's")
@pytest.mark.parametrize(
    ("name", "seen"), [("gvtap-gvproxy", "gvtap-gvproxy"), ("a-name-that-is-too-long", "a-name-that-is-")]
)
def test_a_process_takes_a_name(name: str, seen: str) -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, name], capture_output=True, text=True, timeout=20)
    assert done.stdout == f"{seen}\n", done.stderr
