"""What the resolver may read after its set-up: the host's name files, and libraries that it loads late.

A name file is replaced when it changes, so its directory stays readable, not the file itself.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pipeline.host import name_files
from pipeline.system.sandbox.privileges import User, can_read

_NAME_FILES: Final = (
    *("/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"),
    *("/run/connman", "/run/dhcpcd", "/run/netconfig"),
)
"""Directories in which hosts keep resolv.conf and hosts, or to which these are links."""
_LIBRARIES: Final = ("/usr", "/lib", "/lib64")


def readable() -> tuple[str, ...]:
    """The directories. Some need not exist."""
    links = (name_files.RESOLV_CONF, name_files.HOSTS)
    targets = (os.path.dirname(os.path.realpath(link)) for link in links)
    return tuple(dict.fromkeys((*_NAME_FILES, *targets, *_LIBRARIES, sys.base_prefix, *_paths())))


def can_load(user: User) -> bool:
    """Whether this user can read the libraries of the program."""
    return all(can_read(user, path) for path in _paths())


def _paths() -> Iterable[str]:
    """Where Python finds modules."""
    return (*(path for path in sys.path if os.path.isabs(path)), str(Path(__file__).parents[2]))
