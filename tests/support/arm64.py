"""Runs tests on Arm64: the data path cross-compiled, a Python of that processor in QEMU's user mode.

    python -m tests.support.arm64 [PYTEST'S ARGUMENTS]

Debian's arm64 packages of this Python and its libraries are unpacked into the cache, and wheels of what the
program needs beside them (about 370 MB). Nothing of that is installed. dpkg's architectures do not change.
The compiler and QEMU come from apt (.ci/packages arm64).

Emulation runs Arm64's instructions. It does not show a weak memory order: x86 executes them in its own order.
So it finds wrong layouts, sizes and numbers, and an instruction that is missing; not a missing fence.

QEMU's user mode has no filters of system calls (seccomp), so workers run without them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from perf import compiled
from tests.support import private_apt, qemu
from tests.support.private_apt import FetchError

TRIPLET = "aarch64-linux-gnu"
NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = (NAME, f"lib{NAME}-dev", "libseccomp2", "libstdc++6")
TOOLS = ("pytest", "pytest-timeout", "hypothesis", "mypy")
WHEELS = ("manylinux_2_17_aarch64", "manylinux2014_aarch64", "manylinux_2_28_aarch64")
TREE = "compiled-arm64"
FILES = (
    *("tests/native", "tests/ipc", "tests/records", "tests/engines/virtio", "tests/engines/offload"),
    *("tests/links/test_vhost_user.py", "tests/stages/test_system_calls.py"),
)
"""What depends on a processor: memory order, layouts, system calls."""
STRESS_MESSAGES = "20000"
PATIENCE = "900"  # seconds for one test

_LAUNCHER = """\
#!/bin/sh
exec {qemu} -L {root} -E PYTHONHOME={root}/usr -0 "$0" {root}/usr/bin/{name} "$@"
"""


class Arm64:
    """A Python of that processor, with the packages that the tests need."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.packages = directory / "packages"
        self.python = directory / "bin" / "python3"
        """A script. A program of that processor cannot start one, but it can start a script."""

    def fetch(self) -> None:
        """Download what is missing. Raises FetchError."""
        if not self.directory.exists():
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.directory.parent, prefix="fetch-") as text:
                made = Arm64(Path(text) / "made")
                made.directory.mkdir()
                private_apt.refresh_lists()
                suite = private_apt.mirror().codename
                private_apt.unpack(Path(text) / "apt", made.root, suite, *PACKAGES, architecture="arm64")
                made._fetch_wheels()
                made.directory.rename(self.directory)
        self.python.parent.mkdir(exist_ok=True)
        self.python.write_text(_LAUNCHER.format(qemu=emulator(), root=self.root, name=NAME))
        self.python.chmod(0o755)

    def _fetch_wheels(self) -> None:
        project = tomllib.loads((compiled.ROOT / "pyproject.toml").read_text())["project"]
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        argv += ["--target", str(self.packages), "--only-binary=:all:"]
        argv += [f"--platform={platform}" for platform in WHEELS]
        private_apt.run(*argv, *project["dependencies"], *TOOLS)

    def compile(self) -> int:
        """Compile the data path for this Python, if a source has changed. Returns an exit status."""
        include = self.root / "usr" / "include"
        # Another interpreter's build settings: see sysconfig. Only this file of its library is used.
        settings = f"_sysconfigdata__{TRIPLET}"
        with tempfile.TemporaryDirectory() as text:
            shutil.copy(self.root / "usr" / "lib" / NAME / f"{settings}.py", text)
            env = {
                **os.environ,
                "_PYTHON_SYSCONFIGDATA_NAME": settings,
                "_PYTHON_HOST_PLATFORM": "linux-aarch64",
                "CC": f"{TRIPLET}-gcc",
                "CFLAGS": f"-I{include / NAME} -I{include}",
                "GVTAP_COMPILE": "1",
                "GVTAP_COMPILED": TREE,
                "PYTHONPATH": os.pathsep.join([str(compiled.ROOT), text]),
            }
            return subprocess.run([sys.executable, "-P", "-m", compiled.__name__], env=env).returncode

    def run(self, *argv: str) -> int:
        """Run this Python in the checkout. Returns its exit status."""
        env = {
            **os.environ,
            "GVTAP_COMPILED": TREE,
            "PYTHONPATH": os.pathsep.join([str(compiled.ROOT), str(self.packages)]),
            # Kept, since to compile a test file takes 20 s there; but not in the checkout.
            "PYTHONPYCACHEPREFIX": str(self.directory / "bytecode"),
            "STRESS_MESSAGES": os.environ.get("STRESS_MESSAGES", STRESS_MESSAGES),
        }
        return subprocess.run([str(self.python), "-P", *argv], cwd=compiled.ROOT, env=env).returncode


def emulator() -> str:
    """The path of QEMU's user mode. Raises FetchError."""
    found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if found is None:
        raise FetchError("there is no qemu-aarch64 (apt-get install qemu-user)")
    return found


def main(arguments: list[str]) -> int:
    """Fetch, compile, and run the tests."""
    if shutil.which(f"{TRIPLET}-gcc") is None:
        print(f"not run: there is no {TRIPLET}-gcc (apt-get install gcc-{TRIPLET})", file=sys.stderr)
        return 1
    machine = Arm64(qemu.CACHE.parent / "arm64" / NAME)
    try:
        machine.fetch()
    except FetchError as error:
        print(f"not run: {error}", file=sys.stderr)
        return 1
    options = ["-p", "no:cacheprovider", f"--timeout={PATIENCE}"]
    return machine.compile() or machine.run("-m", "pytest", *options, *(arguments or FILES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
