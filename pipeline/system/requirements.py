"""Whether this system has what the daemon needs. The program checks that before it does anything else.

Linux, macOS and the BSDs have everything. On Windows the program ends with one sentence that says what is
missing.
"""

import os
import select
import socket
import sys
from typing import Final

_WAY_OUT: Final = {"win32": "; on Windows use WSL 2, where it is a Linux program"}


def shortage() -> str:
    """What is missing, to complete the sentence "cannot run here: ..."; "" if nothing is missing."""
    needs = {
        "fork()": hasattr(os, "fork"),
        "POSIX shared memory and semaphores": sys.platform != "win32",
        "unix sockets that carry descriptors": hasattr(socket, "AF_UNIX") and hasattr(socket, "SCM_RIGHTS"),
        "epoll or kqueue": hasattr(select, "epoll") or hasattr(select, "kqueue"),
    }
    missing = [name for name, there in needs.items() if not there]
    if not missing:
        return ""
    return f"this system ({sys.platform}) has no {', no '.join(missing)}{_WAY_OUT.get(sys.platform, '')}"
