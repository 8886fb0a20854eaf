"""Packs the guest's agent into one file, which needs Python and its standard library: agent.py FILE.

What the agent loads (tests/test_layers.py), and a line of metadata for -version.
"""

import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path

NAME = "gvtap-pipeline"
ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    *("guest/*.py", "pipeline/__init__.py", "pipeline/go/flags.py", "pipeline/wire/*.py"),
    *("pipeline/system/__init__.py", "pipeline/system/netlink.py", "pipeline/system/tap.py"),
)
# zipapp's own would lose the exit status.
MAIN = "import sys\nfrom guest import agent\nsys.exit(agent.main())\n"


def version() -> str:
    """That of the installation (setuptools-scm writes it), else of the commit."""
    written = ROOT / "pipeline" / "version.txt"
    if written.exists():
        return written.read_text().strip()
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"0+g{found}"


def files() -> dict[str, str]:
    """What goes into the archive: path and text."""
    number = version()
    found = {
        "__main__.py": MAIN,
        f"{NAME.replace('-', '_')}-{number}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {number}\n"
        ),
    }
    for path in (path for pattern in SOURCES for path in ROOT.glob(pattern)):
        found[str(path.relative_to(ROOT))] = path.read_text()
    return found


def build(target: Path) -> None:
    """Write the archive; it can be run by its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files().items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        zipapp.create_archive(directory, target, "/usr/bin/env python3", compressed=True)
    target.chmod(0o755)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
