"""The agent in one file (make agent): it needs nothing but the standard library, wherever it is started."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALONE = (sys.executable, "-S", "-E", "-I")
MAX_BYTES = 100_000
BUILTIN_CLIENT = """
import sys
sys.path.insert(0, sys.argv[1])
from guest import dhcp
dhcp.Client([*dhcp.commands("builtin", "tap0")[0], "-help"]).check()
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("archive") / "build" / "gvtap-guest.pyz"
    subprocess.run([sys.executable, ROOT / ".ci" / "agent.py", made], check=True)
    return made


def run(archive: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Python without anything of the checkout or of packages; FILE is the archive, by a relative path."""
    argv = [*ALONE, *(archive.name if word == "FILE" else word for word in words)]
    return subprocess.run(argv, capture_output=True, text=True, cwd=archive.parent)


def test_version_and_help_need_the_standard_library_alone(archive: Path) -> None:
    names = zipfile.ZipFile(archive).namelist()
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    version = metadata.partition("/")[0].removeprefix("gvtap_pipeline-").removesuffix(".dist-info")
    assert version[0].isdigit()
    done = run(archive, "FILE", "-version")
    assert (done.returncode, done.stdout) == (0, f"gvtap-guest version {version}\n"), done.stderr
    done = run(archive, "FILE", "-help")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("Usage of gvtap-guest:\n  -address string\n")


def test_its_status_is_the_agents(archive: Path) -> None:
    done = run(archive, "FILE", "-nosuch")
    assert done.returncode == 2
    assert done.stderr.startswith("flag provided but not defined: -nosuch\nUsage of gvtap-guest:\n")


def test_its_own_dhcp_client_is_found_in_it(archive: Path) -> None:
    done = run(archive, "-c", BUILTIN_CLIENT, "FILE")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Usage of gvtap-guest dhcp:\n")


def test_it_is_a_small_program_with_nothing_of_the_daemon(archive: Path) -> None:
    assert archive.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert archive.stat().st_mode & 0o777 == 0o755
    assert archive.stat().st_size < MAX_BYTES
    names = {name for name in zipfile.ZipFile(archive).namelist() if name.startswith("pipeline/")}
    assert {name for name in names if not name.startswith("pipeline/wire/")} == {
        "pipeline/",
        "pipeline/go/",
        "pipeline/__init__.py",
        "pipeline/go/flags.py",
        "pipeline/system/",
        "pipeline/system/__init__.py",
        "pipeline/system/netlink.py",
        "pipeline/system/tap.py",
    }
    assert "pipeline/engines/offload/checksum.py" not in names
