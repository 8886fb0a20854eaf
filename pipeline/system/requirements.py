"""Whether this system has what the daemon is made of, asked before anything else is done.

Linux, macOS and the BSDs have it. Windows has not, and says so in one sentence instead of failing somewhere.
"""

import os
import select
import socket
import sys
from typing import Final

_WAY_OUT: Final = {"win32": "; on Windows use WSL 2, where it is a Linux program"}


def shortage() -> str:
    """What is missing, as the end of a sentence that says the program cannot start; "" if nothing is."""
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
