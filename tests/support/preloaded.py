"""A process that has imported programs, and forks one for each request: a start without the imports.

    python -P -m tests.support.preloaded FD MODULE...

FD is a socket (SOCK_SEQPACKET). Each request is a JSON object in a file, whose descriptor comes first (a
command line may be longer than a message). It gets a JSON object as its answer:

    {"start": "MODULE:FUNCTION", "argv": [...], "orig_argv": [...], "cwd": path, "env": {...}, "umask": n,
     "session": whether it gets its own, "ignored": [signals],
     "namespace": name or ""}                       with three descriptors: standard input, output, error
        -> {"pid": n} or {"error": text}
    {"reap": pid}                                   after the end of the process
        -> {"status": n}                            negative: the signal that ended it

A program's main function runs as in a process of its own: sys.argv, directory, environment and standard files
are what the request says. Its exception or return value ends the process. quick_start.py has the other end of
the socket. This process ends with it, and imports nothing else, so that programs find few modules that they
have not imported themselves.
"""

import array
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

MAX_ANSWER = 4096
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Those that tests let a program inherit as ignored."""
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_RDONLY, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 4096, 16384, 1 << 19
_MNT_DETACH = 2
_PR_SET_NAME = 15
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(words: Sequence[str]) -> int:
    """Answer requests until the other end is closed. In a child: run the program."""
    # What ctrl-C sends to all processes of a run does not end this one: the tests still need its answers.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    line = socket.socket(fileno=int(words[0]))
    for name in words[1:]:
        importlib.import_module(name)
    # A collection in a child copies no page of what is here.
    gc.collect()
    gc.freeze()
    while True:
        text, ancillary, _, _ = line.recvmsg(MAX_ANSWER, socket.CMSG_SPACE(4 * 4))
        if not text:
            return 0
        files = array.array("i")
        for _, _, data in ancillary:
            files.frombytes(data)
        with open(files.pop(0), "rb") as file:
            request = json.load(file)
        answer: dict[str, object]
        try:
            if "reap" in request:
                _, status = os.waitpid(request["reap"], 0)
                answer = {"status": os.waitstatus_to_exitcode(status)}
            else:
                answer = {"pid": os.fork()}
        except OSError as error:
            answer = {"error": str(error)}
        if answer.get("pid") == 0:
            line.close()
            return _run(request, list(files))
        for fd in files:
            os.close(fd)
        line.send(json.dumps(answer).encode())


def _run(request: dict[str, Any], files: list[int]) -> int:
    """Become the program."""
    for number, fd in enumerate(files):
        os.dup2(fd, number)
    for fd in files:
        os.close(fd)
    if request["session"]:
        os.setsid()
    for number in SIGNALS:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else handler)
    if request["namespace"]:
        _enter(request["namespace"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[:] = request["argv"]
    # As the kernel names a process after its program.
    _LIBC.prctl(_PR_SET_NAME, os.path.basename(sys.argv[0]).encode()[:15], 0, 0, 0)
    sys.orig_argv[:] = request["orig_argv"]
    module, _, function = request["start"].partition(":")
    run: Callable[[], int | None] = getattr(importlib.import_module(module), function)
    return run() or 0


def _enter(name: str) -> None:
    """Enter a network namespace as `ip netns exec` does: with its /sys, and with its files in /etc."""
    handle = os.open(f"/run/netns/{name}", os.O_RDONLY)
    _call("setns", handle, _CLONE_NEWNET)
    os.close(handle)
    _call("unshare", _CLONE_NEWNS)
    _call("mount", b"", b"/", b"none", _MS_SLAVE | _MS_REC, None)
    flags = _MS_RDONLY if os.statvfs("/sys").f_flag & os.ST_RDONLY else 0
    _LIBC.umount2(b"/sys", _MNT_DETACH)
    _call("mount", name.encode(), b"/sys", b"sysfs", flags, None)
    own = f"/etc/netns/{name}"
    for file in os.listdir(own) if os.path.isdir(own) else []:
        _call("mount", f"{own}/{file}".encode(), f"/etc/{file}".encode(), b"none", _MS_BIND, None)


def _call(function: str, *words: object) -> None:
    if getattr(_LIBC, function)(*words) != 0:
        raise OSError(ctypes.get_errno(), f"{function}{words}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
