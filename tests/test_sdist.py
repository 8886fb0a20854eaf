"""The source distribution has what git has. So images, examples and tests can be made of it."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


def committed(root: Path) -> set[str]:
    return set(
        subprocess.run(
            ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")
def test_it_has_every_committed_file(tmp_path: Path) -> None:
    pytest.importorskip("setuptools_scm")
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", ROOT, checkout], check=True)
    env = {**os.environ, "GVTAP_COMPILE": "0"}
    argv = [sys.executable, "-c", BUILD, tmp_path]
    done = subprocess.run(argv, cwd=checkout, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / done.stdout.splitlines()[-1]) as archive:
        members = archive.getmembers()
    found = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert committed(checkout) <= found
    assert {
        "examples/qemu/run.sh",
        "contrib/containers/daemon/Containerfile",
        "pipeline/version.txt",
    } <= found
    (script,) = (member for member in members if member.name.endswith("/examples/qemu/run.sh"))
    assert script.mode & 0o111
