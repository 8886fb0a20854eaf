"""What some machines cannot do, and tests need: they are skipped there, with the reason."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
OTHERS_ENTER: Final = 0o001


@functools.cache
def no_user_namespaces() -> str:
    """Why no user namespace can be made; "" if one can. In a chroot the kernel refuses it."""
    done = subprocess.run(["unshare", "--user", "true"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def skip_without_user_namespaces() -> None:
    """Skip the test where no user namespace can be made."""
    if why := no_user_namespaces():
        pytest.skip(f"no user namespace can be made: {why}")


@functools.cache
def private_directory() -> str:
    """A directory on the way to this checkout or to Python that only its owner may enter; "" for none."""
    for path in (ROOT, Path(sys.executable), Path(sys.executable).resolve()):
        for directory in reversed((path, *path.parents)):
            if not directory.stat().st_mode & OTHERS_ENTER:
                return str(directory)
    return ""


def skip_in_private_directory() -> None:
    """Skip the test if another user could not read the program. A checkout in root's home is such a case."""
    if directory := private_directory():
        pytest.skip(f"other users cannot read the program: only its owner may enter {directory}")
