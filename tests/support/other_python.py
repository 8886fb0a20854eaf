"""Finds another Python for `make pythons`: one that is installed, or Debian's of a later release.

    python -m tests.support.other_python 3.13

Prints the path of an interpreter, or says on standard error why there is none. Debian's is unpacked into the
cache with the libc that it was built for, and runs through that libc's loader (about 130 MB). Nothing is
installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import private_apt, qemu
from tests.support.private_apt import FetchError

SUITES = {"3.11": "bookworm", "3.13": "trixie"}
"""Releases of Debian by the Python that they have."""
WHEELS = "/usr/share/python-wheels"

_LAUNCHER = """\
#!/bin/sh
exec {loader} --library-path {libraries} --argv0 "$0" {program} "$@"
"""


def installed(version: str) -> str:
    """The path of an installed Python that can make virtual environments; "" if there is none."""
    found = shutil.which(f"python{version}")
    if (
        found is None
        or subprocess.run([found, "-c", "import ensurepip, venv"], capture_output=True).returncode
    ):
        return ""
    return found


def fetched(version: str) -> Path:
    """The launcher of the one in the cache. It is fetched if it is not there. Raises FetchError."""
    root = qemu.CACHE.parent / "pythons" / version
    launcher = root / "usr" / "bin" / f"python{version}"
    if root.exists():
        return launcher
    if version not in SUITES:
        raise FetchError(f"no Python {version} is installed, and no release of Debian has one")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="fetch-") as text:
        made = Path(text, "root")
        private_apt.refresh_lists()
        names = (f"python{version}", f"libpython{version}-dev", f"python{version}-venv", "libstdc++6")
        private_apt.unpack(Path(text, "apt"), made, SUITES[version], *names)
        _adapt(made, root, version)
        made.rename(root)
    return launcher


def _adapt(made: Path, root: Path, version: str) -> None:
    """Let it run from root, without the system's libc, headers and wheels."""
    name = f"python{version}"
    program = made / "usr" / "bin" / name
    program.rename(program.with_name(f"{name}.program"))
    libraries = root / "usr" / "lib" / "x86_64-linux-gnu"
    loader = libraries / "ld-linux-x86-64.so.2"
    # A virtual environment looks for the library beside the folder of this script.
    program.write_text(
        _LAUNCHER.format(loader=loader, libraries=libraries, program=root / "usr" / "bin" / f"{name}.program")
    )
    program.chmod(0o755)
    # Debian's header includes another one, by a path that only the system's compiler searches.
    include = made / "usr" / "include"
    shutil.copy(include / "x86_64-linux-gnu" / name / "pyconfig.h", include / name / "pyconfig.h")
    # One of these files is a link to the other.
    for path in {path.resolve() for path in (made / "usr" / "lib" / name).glob("_sysconfigdata_*.py")}:
        path.write_text(path.read_text().replace(WHEELS, f"{root}{WHEELS}"))


def main(words: list[str]) -> int:
    """Print the path."""
    (version,) = words
    try:
        print(installed(version) or os.fspath(fetched(version)))
    except FetchError as error:
        print(f"Python {version} is left out: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
