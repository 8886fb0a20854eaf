"""Which QEMUs the tests have, and what each of them can.

The installed one, and where that is too old to reconnect, a newer one beside it that vm_fetch.py has unpacked
into the cache: a test of each kind of link and those of restarts run with both. $GVTAP_QEMU names one program
to use instead.
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
"""The first version whose `-netdev stream` connects again."""
_RECONNECT_MS = (9, 2)  # that of the option's newer name; the older one is deprecated from here on


@dataclasses.dataclass(frozen=True)
class Qemu:
    """A program that runs here, with its version (major, minor)."""

    program: Path
    version: tuple[int, int]
    tree: Path | None = None
    """Where its packages were unpacked; None for a program that is installed."""

    @property
    def command(self) -> list[str]:
        """The first words of a command line: an unpacked program has to be told where its own parts are."""
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
        """Whether its `-netdev stream` can connect again when the other end was gone."""
        return self.version >= RECONNECT

    @property
    def reconnect(self) -> str:
        """The option for that, once a second."""
        return "reconnect-ms=1000" if self.version >= _RECONNECT_MS else "reconnect=1"

    def __str__(self) -> str:
        return f"qemu{self.version[0]}.{self.version[1]}"


@functools.cache
def probe(program: Path, tree: Path | None = None) -> Qemu | None:
    """What `program` is; None when it does not run or is no QEMU."""
    found = Qemu(program, (0, 0), tree)
    try:
        done = subprocess.run([*found.command, "--version"], capture_output=True, text=True, timeout=30)
    except OSError:
        return None
    match = re.search(r"QEMU emulator version (\d+)\.(\d+)", done.stdout)
    return dataclasses.replace(found, version=(int(match[1]), int(match[2]))) if match else None


def unpacked(tree: Path) -> Qemu | None:
    """The QEMU of packages that were unpacked into `tree`."""
    return probe(tree / "usr" / "bin" / PROGRAM, tree)


def installed() -> Qemu | None:
    """The one on the path."""
    path = shutil.which(PROGRAM)
    return probe(Path(path)) if path else None


def cached() -> Qemu | None:
    """The newest in the cache."""
    candidates = [candidate for tree in CACHE.glob("qemu-*") if (candidate := unpacked(tree))]
    return max(candidates, key=lambda candidate: candidate.version, default=None)


def found() -> Sequence[Qemu]:
    """Those the tests run with, without any that is too old for `-netdev stream`."""
    named = os.environ.get("GVTAP_QEMU")
    if named:
        candidates = [probe(Path(shutil.which(named) or named))]
    else:
        candidates = [installed()]
        if candidates[0] is not None and not candidates[0].reconnects:
            candidates.append(cached())
    return [candidate for candidate in candidates if candidate is not None and candidate.version >= STREAM]


def missing() -> str:
    """Why there is none, or ""."""
    if found():
        return ""
    named = os.environ.get("GVTAP_QEMU")
    if named:
        return f"GVTAP_QEMU={named} is no QEMU from 7.2 on that runs here"
    return f"needs {PROGRAM} from 7.2 on (apt-get install qemu-system-x86)"
