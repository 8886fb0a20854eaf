"""Finds the QEMU programs for tests, and what each of them supports.

The tests use the installed QEMU. If it is too old to reconnect, they also use a newer one, which vm_fetch.py
has unpacked into the cache. One test for each kind of link, and the tests of restarts, then run with both.
$GVTAP_QEMU names one program to use instead.
"""

import dataclasses
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(os.environ.get("GVTAP_VM_CACHE") or Path.home() / ".cache" / "gvtap-pipeline" / "vm")
PROGRAM = "qemu-system-x86_64"
STREAM = (7, 2)
"""The first version with `-netdev stream` and `-netdev dgram`."""
RECONNECT = (8, 0)
"""The first version whose `-netdev stream` reconnects."""
_RECONNECT_MS = (9, 2)  # the first version with the option's newer name; it deprecates the older one


@dataclasses.dataclass(frozen=True)
class Qemu:
    """A QEMU program that runs here, with its version (major, minor)."""

    program: Path
    version: tuple[int, int]
    tree: Path | None = None
    """The directory of its unpacked packages; None for an installed program."""

    @property
    def command(self) -> list[str]:
        """The first words of its command line. An unpacked program needs the paths of its own files."""
        if self.tree is None:
            return [str(self.program)]
        libraries, share = self.tree / "usr" / "lib" / "x86_64-linux-gnu", self.tree / "usr" / "share"
        variables = (f"LD_LIBRARY_PATH={libraries}", f"QEMU_MODULE_DIR={libraries / 'qemu'}")
        return [
            *("env", *variables, str(self.program)),
            *("-L", str(share / "qemu"), "-L", str(share / "seabios")),
        ]

    @property
    def reconnects(self) -> bool:
        """Whether its `-netdev stream` can reconnect."""
        return self.version >= RECONNECT

    @property
    def reconnect(self) -> str:
        """The option to reconnect once a second."""
        return "reconnect-ms=1000" if self.version >= _RECONNECT_MS else "reconnect=1"

    def __str__(self) -> str:
        return f"qemu{self.version[0]}.{self.version[1]}"


@functools.cache
def probe(program: Path, tree: Path | None = None) -> Qemu | None:
    """The QEMU that `program` is; None if it does not run, or is not a QEMU."""
    found = Qemu(program, (0, 0), tree)
    try:
        done = subprocess.run([*found.command, "--version"], capture_output=True, text=True, timeout=30)
    except OSError:
        return None
    match = re.search(r"QEMU emulator version (\d+)\.(\d+)", done.stdout)
    return dataclasses.replace(found, version=(int(match[1]), int(match[2]))) if match else None


def unpacked(tree: Path) -> Qemu | None:
    """The QEMU in packages that were unpacked into `tree`."""
    return probe(tree / "usr" / "bin" / PROGRAM, tree)


def installed() -> Qemu | None:
    """The QEMU on the path."""
    path = shutil.which(PROGRAM)
    return probe(Path(path)) if path else None


def cached() -> Qemu | None:
    """The newest QEMU in the cache."""
    candidates = [candidate for tree in CACHE.glob("qemu-*") if (candidate := unpacked(tree))]
    return max(candidates, key=lambda candidate: candidate.version, default=None)


def found() -> Sequence[Qemu]:
    """The programs for the tests, without those too old for `-netdev stream`."""
    named = os.environ.get("GVTAP_QEMU")
    if named:
        candidates = [probe(Path(shutil.which(named) or named))]
    else:
        candidates = [installed()]
        if candidates[0] is not None and not candidates[0].reconnects:
            candidates.append(cached())
    return [candidate for candidate in candidates if candidate is not None and candidate.version >= STREAM]


def missing() -> str:
    """Why there is no QEMU; "" if there is one."""
    if found():
        return ""
    named = os.environ.get("GVTAP_QEMU")
    if named:
        return f"GVTAP_QEMU={named} is not a QEMU from 7.2 on that runs here"
    return f"needs {PROGRAM} from 7.2 on (apt-get install qemu-system-x86)"
