"""Which program this is: its version, and whether its data path runs compiled or as plain Python.

An installation writes its version beside this file, because importlib.metadata takes 10 ms and 2 MB to load.
If a build compiles nothing, it writes WHY_PLAIN there. A checkout and an editable install have none.
"""

import sys
from importlib import machinery
from pathlib import Path
from typing import Final

PROGRAM: Final = "gvtap-pipeline"
COMPILED: Final = "compiled"
PLAIN: Final = "plain"
VERSION: Final = "version.txt"
WHY_PLAIN: Final = "why_plain.txt"
_HERE: Final = Path(__file__).parent
_PROBE: Final = "stages/worker"
"""A module that is compiled wherever any is."""


def version() -> str:
    """The version of the installed package, "unknown" if the package is not installed."""
    if text := _text(_HERE / VERSION):
        return text
    from importlib import metadata  # noqa: PLC0415  only for a checkout that was never installed

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
    return _text(root / WHY_PLAIN)


def python() -> str:
    """The version of the interpreter, as 3.11.2."""
    return ".".join(str(part) for part in sys.version_info[:3])


def line(program: str) -> str:
    """What -version prints, for instance ``gvtap-pipeline version 1.0 (compiled, Python 3.11.2)``."""
    reason = why_plain()
    kind = data_path() + (f": {reason}" if reason else "")
    return f"{program} version {version()} ({kind}, Python {python()})"


def _text(path: Path) -> str:
    """The text in a file, "" if there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
