"""Makes this process look like another system, then imports or runs the program. Linux acts that system.

    python -m tests.support.other_system darwin import          every module of the program
    python -m tests.support.other_system darwin run WORD...     gvtap-pipeline WORD...

Names that the other system lacks are hidden, and calls that it refuses are refused. ``darwin`` is macOS on
Apple silicon, with a kqueue built on epoll. ``win32`` is Windows. The standard library and other packages are
loaded first, because they know these systems themselves. Then the program is loaded. It forks its workers
from here.

This does not show how the sockets of the other kernel behave, its memory order, and how it starts processes.
"""

import ctypes
import errno
import fcntl
import importlib
import json
import os
import pkgutil
import platform
import re
import resource
import select
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import posix_ipc

from tests.support import fake_kqueue

LINUX: dict[ModuleType, str] = {
    select: "epoll|EPOLL.*",
    os: "eventfd.*|EFD_.*|memfd_create|MFD_.*|pidfd_open|PIDFD_.*|sched_.*|splice|SPLICE_.*|getrandom|GRND_.*"
    "|O_PATH|copy_file_range|posix_fallocate|posix_fadvise|POSIX_FADV_.*|setns|unshare|CLONE_.*|getresuid|pipe2|accept4",
    socket: "SOCK_CLOEXEC|SOCK_NONBLOCK|MSG_NOSIGNAL|MSG_CMSG_CLOEXEC|MSG_ERRQUEUE|MSG_MORE|MSG_CONFIRM"
    "|SO_DOMAIN|SO_PROTOCOL|SO_BINDTODEVICE|SO_MARK|SO_PEERCRED|SO_PASSCRED|SO_PRIORITY|SO_PEERSEC|SO_PASSSEC"
    "|SO_INCOMING_CPU|TCP_KEEPIDLE|TCP_QUICKACK|TCP_USER_TIMEOUT|TCP_CORK|TCP_DEFER_ACCEPT|TCP_LINGER2"
    "|TCP_SYNCNT|TCP_WINDOW_CLAMP|TCP_CONGESTION|(AF|PF)_(VSOCK|PACKET|NETLINK|ALG|CAN|TIPC|QIPCRTR|RDS)"
    "|(VMADDR|SO_VM|PACKET|NETLINK|ALG|CAN|TIPC|SO_J1939|UDPLITE)_.*|IPPROTO_UDPLITE",
    fcntl: "F_ADD_SEALS|F_GET_SEALS|F_SEAL_.*|F_SETPIPE_SZ|F_GETPIPE_SZ",
    signal: "pidfd_send_signal|SIGPWR|SIGSTKFLT|SIGPOLL|SIGRTM.*|sigwaitinfo|sigtimedwait",
    resource: "prlimit",
}
"""Names of Linux that macOS does not have."""
OPEN_MAX = 10240
LONGEST_NAME = 31
"""The most bytes in a name of shared memory on macOS."""


def hide(module: ModuleType, pattern: str) -> None:
    """Remove the names that match from a module."""
    for name in [name for name in vars(module) if re.fullmatch(pattern, name)]:
        delattr(module, name)


def act_darwin() -> None:
    """Act macOS."""
    make_pair, set_limit = socket.socketpair, resource.setrlimit
    for module, pattern in LINUX.items():
        hide(module, pattern)
    for name in ("kqueue", "kevent", *(name for name in vars(fake_kqueue) if name.startswith("KQ_"))):
        setattr(select, name, getattr(fake_kqueue, name))
    vars(socket)["TCP_KEEPALIVE"] = 4  # Linux's number of the same option

    def setrlimit(what: int, limits: tuple[int, int]) -> None:
        if limits[0] > OPEN_MAX:
            raise ValueError("current limit exceeds maximum limit")
        set_limit(what, limits)

    def socketpair(family: int = socket.AF_UNIX, kind: int = socket.SOCK_STREAM, *more: int) -> object:
        refuse_packets(family, kind)
        return make_pair(family, kind, *more)

    resource.setrlimit = setrlimit
    socket.socketpair = socketpair  # type: ignore[assignment]
    importlib.reload(selectors)  # so that asyncio, and with it the supervisor, uses kqueue too
    act_sockets()
    act_posix_ipc()
    act_libc()
    sys.addaudithook(refuse_proc)
    platform.machine = lambda: "arm64"
    sys.platform = "darwin"


def refuse_packets(family: int, kind: int) -> None:
    """Refuse packet sockets, as the system's call does."""
    if family == socket.AF_UNIX and kind == socket.SOCK_SEQPACKET:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))


def act_sockets() -> None:
    """Refuse packet sockets, and the question whether a socket listens (SO_ACCEPTCONN)."""
    plain: Any = socket.socket
    begin, ask = plain.__init__, plain.getsockopt

    def init(self: object, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
        if fileno is None:
            refuse_packets(socket.AF_UNIX if family == -1 else family, type)
        begin(self, family, type, proto, fileno)

    def getsockopt(self: object, level: int, option: int, *size: int) -> object:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        return ask(self, level, option, *size)

    plain.__init__, plain.getsockopt = init, getsockopt


def act_posix_ipc() -> None:
    """Remove the timed wait of semaphores, and refuse long names of shared memory."""
    make = posix_ipc.SharedMemory

    def shared_memory(name: str, *args: object, **kwargs: object) -> object:
        if len(name) > LONGEST_NAME:
            raise ValueError("The name is too long")
        return make(name, *args, **kwargs)

    def semaphore(*_args: object, **_kwargs: object) -> object:
        raise AssertionError("a semaphore without a timed wait")

    posix_ipc.SharedMemory, posix_ipc.Semaphore = shared_memory, semaphore
    posix_ipc.SEMAPHORE_TIMEOUT_SUPPORTED = False


def act_libc() -> None:
    """Hide functions that only Linux's C library has."""
    library: Any = ctypes.CDLL

    class Other(library):  # type: ignore[misc]
        def __getattr__(self, name: str) -> object:
            if name in ("prctl", "recvmmsg", "sendmmsg", "epoll_wait", "accept4"):
                raise AttributeError(name)
            return super().__getattr__(name)

    ctypes.CDLL = Other  # type: ignore[misc]


def refuse_proc(event: str, args: tuple[object, ...]) -> None:
    """Refuse to open files in /proc and /sys, which do not exist there."""
    if event in ("open", "os.listdir") and str(args[0]).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(args[0]))


def act_win32() -> None:
    """Act Windows, far enough for the program to report that it does not run there."""
    for module, pattern in LINUX.items():
        hide(module, pattern)
    hide(os, "fork|forkpty|geteuid|getuid|umask|mkfifo|set_blocking|readv|writev|sendfile|kill|killpg")
    hide(socket, "AF_UNIX|SCM_.*|MSG_DONTWAIT|send_fds|recv_fds|CMSG_.*|socketpair")
    hide(select, "poll|POLL.*")
    hide(signal, "SIGHUP|SIGQUIT|SIGKILL|SIGUSR.|SIGCHLD|SIGALRM|SIGPIPE|set_wakeup_fd|pthread_.*")
    for name in ("fcntl", "grp", "posix_ipc", "pwd", "resource", "termios"):
        sys.modules[name] = None  # type: ignore[assignment]
    sys.platform = "win32"


ACTS: dict[str, Callable[[], None]] = {"darwin": act_darwin, "win32": act_win32}


def load_all() -> dict[str, str]:
    """Import every module of the program. Returns the errors by module."""
    failed = {}
    package = importlib.import_module("pipeline")
    for module in pkgutil.walk_packages(package.__path__, "pipeline."):
        if module.name.endswith("__main__"):
            continue  # this module runs the program
        try:
            importlib.import_module(module.name)
        except Exception as error:
            failed[module.name] = f"{type(error).__name__}: {error}"
    return failed


def unload() -> None:
    """Unload the program's own modules. Other packages stay loaded."""
    for name in [name for name in sys.modules if name.split(".")[0] == "pipeline"]:
        del sys.modules[name]


def main() -> int:
    """See the module's docstring."""
    system, command, *words = sys.argv[1:]
    failed = load_all()
    assert not failed, failed
    unload()
    ACTS[system]()
    if command == "import":
        print(json.dumps(load_all()))
        return 0
    code: int = importlib.import_module("pipeline.cli").main(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
