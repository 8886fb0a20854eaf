"""System calls that the resolver keeps besides those of all workers (pipeline.stages.system_calls).

The resolver asks name servers, and reads the host's name files again when they change. It loads libraries
for rare records and patterns when the first guest asks for them. Landlock bounds what it can read.
"""

import os
from typing import Final

from pipeline.stages.system_calls import INET_SOCKETS
from pipeline.system.sandbox.calls import Arg, Call, Calls, calls

_WRITING: Final = getattr(os, "O_ACCMODE", 3) | os.O_CREAT | os.O_TRUNC
"""Flags of open() that a file only to read has not. O_TMPFILE needs one of them."""

CALLS: Final[Calls] = (
    *INET_SOCKETS,
    Call("openat", "name files and libraries, to read", (Arg(2, 0, _WRITING),)),
    Call("open", "the same", (Arg(1, 0, _WRITING),)),
    *calls("whether a name file has changed; imports", "stat", "newfstatat", "lstat", "access", "faccessat"),
    *calls("imports", "getdents64", "readlink", "readlinkat", "getcwd"),
    *calls("imports: libraries have code", "mmap", "mprotect"),
    *calls("DNS over TCP", "accept4"),
)
