"""What a process gives back after its start, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems keep what they have")

_LOADED = """
import re, numpy
from pipeline.system import resident
def of_files(): return int(re.search(r"RssFile:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = of_files()
resident.give_back()
print(before - of_files())
assert numpy.linalg.det(numpy.eye(3)) == 1
"""

_CHANGED = """
import ctypes, mmap, sys
from pipeline.system import resident
file = open(sys.argv[1], "rb")
private = mmap.mmap(file.fileno(), 3 * mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
private[mmap.PAGESIZE] = ord("n")
libc = ctypes.CDLL(None)
where = ctypes.addressof(ctypes.c_char.from_buffer(private))
assert not libc.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(3 * mmap.PAGESIZE), mmap.PROT_READ)
found = [first for first, _ in resident._unchanged()]
resident.give_back()
print(where in found, chr(private[0]), chr(private[mmap.PAGESIZE]))
"""


def run(code: str, *words: str) -> str:
    argv = [sys.executable, "-c", code, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def test_pages_of_libraries_are_given_back_and_come_back_when_used() -> None:
    assert int(run(_LOADED)) > 4000, "KiB"


def test_a_page_that_was_changed_before_it_was_protected_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"o" * 65536)
    assert run(_CHANGED, str(path)) == "False o n\n"
