"""Which program this is: its version, and whether its data path runs compiled or as plain Python.

The version is that of the installed package. If a build compiled nothing, setup.py writes WHY_PLAIN beside
this file. A checkout and an editable install have no such file.
"""

import sys
from importlib import machinery, metadata
from pathlib import Path
from typing import Final

PROGRAM: Final = "gvtap-pipeline"
COMPILED: Final = "compiled"
PLAIN: Final = "plain"
WHY_PLAIN: Final = "why_plain.txt"
_HERE: Final = Path(__file__).parent
_PROBE: Final = "stages/worker"
"""A module that is compiled wherever any is."""


def version() -> str:
    """The version of the installed package, "unknown" if the package is not installed."""
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "unknown"


def data_path(root: Path = _HERE) -> str:
    """How the data path of the package in root runs: COMPILED or PLAIN."""
    made = (root / f"{_PROBE}{suffix}" for suffix in machinery.EXTENSION_SUFFIXES)
    return COMPILED if any(path.exists() for path in made) else PLAIN


def why_plain(root: Path = _HERE) -> str:
    """Why the build of the package in root compiled nothing. "" if it did, and for a checkout."""
    try:
        return (root / WHY_PLAIN).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def python() -> str:
    """The version of the interpreter, as 3.11.2."""
    return ".".join(str(part) for part in sys.version_info[:3])


def line(program: str) -> str:
    """What -version prints, for instance ``gvtap-pipeline version 1.0 (compiled, Python 3.11.2)``."""
    reason = why_plain()
    kind = data_path() + (f": {reason}" if reason else "")
    return f"{program} version {version()} ({kind}, Python {python()})"
