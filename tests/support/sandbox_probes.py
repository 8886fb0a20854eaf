"""What a process tries in order to get out of its sandbox. Each attempt says how it ended.

An attempt returns "works", or the name of the errno with which the system refused it. None does harm if it
is not refused: what could do harm names something that does not exist, and then fails with another errno.
"""

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

_LIBRARY: Final = ctypes.CDLL(None, use_errno=True)
_PTRACE_ATTACH: Final = 16
_CLONE_NEWUSER: Final = 0x10000000
_PROT_READ_EXEC: Final = 5
_PRIVATE_ANONYMOUS: Final = 0x22
_IO_URING_SETUP: Final = 425
_PAGE: Final = 4096
_NO_PROCESS: Final = (1 << 22) + 1
"""More than Linux allows for a process id."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _open_socket(family: int, kind: int, protocol: int = 0) -> Callable[[], None]:
    def attempt() -> None:
        socket.socket(family, kind, protocol).close()

    return attempt


def _read_file() -> None:
    os.close(os.open("/etc/hostname", os.O_RDONLY))


def _read_secret() -> None:
    os.close(os.open("/proc/self/environ", os.O_RDONLY))


def _write_file() -> None:
    os.close(os.open("/tmp/gvtap-sandbox-probe", os.O_WRONLY | os.O_CREAT))


def _exec() -> None:
    os.execv("/nonexistent", ["nonexistent"])


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _trace() -> None:
    _check(_LIBRARY.ptrace(_PTRACE_ATTACH, _NO_PROCESS, 0, 0))


def _mount() -> None:
    _check(_LIBRARY.mount(b"none", b"/nonexistent", b"tmpfs", ctypes.c_ulong(0), None))


def _read_memory() -> None:
    """Read the memory of the supervisor, which has this address too: it has forked this process."""
    page = ctypes.create_string_buffer(16)
    here = _Iovec(ctypes.addressof(page), 16)
    count = _LIBRARY.process_vm_readv(
        *(os.getppid(), ctypes.byref(here), ctypes.c_ulong(1)),
        *(ctypes.byref(here), ctypes.c_ulong(1), ctypes.c_ulong(0)),
    )
    _check(count)


def _signal() -> None:
    os.kill(os.getppid(), 0)


def _become_root() -> None:
    os.setresuid(0, 0, 0)
    if os.geteuid() == 0 and os.getuid() == 0:
        return
    raise OSError(errno.EPERM, "still somebody else")


def _unshare() -> None:
    _check(_LIBRARY.unshare(_CLONE_NEWUSER))


def _make_code() -> None:
    _LIBRARY.mmap.restype = ctypes.c_void_p
    at = _LIBRARY.mmap(
        None, ctypes.c_size_t(_PAGE), _PROT_READ_EXEC, _PRIVATE_ANONYMOUS, -1, ctypes.c_long(0)
    )
    if at == ctypes.c_void_p(-1).value:
        _check(-1)


def _io_uring() -> None:
    _check(_LIBRARY.syscall(ctypes.c_long(_IO_URING_SETUP), 1, ctypes.create_string_buffer(120)))


def _thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


_UNIX: Final = socket.AF_UNIX
ATTEMPTS: Final[dict[str, Callable[[], None]]] = {
    "read a file of `/etc`": _read_file,
    "read its own environment in `/proc`": _read_secret,
    "write a file": _write_file,
    "`socket()` of TCP": _open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "`socket()` of UDP over IPv6": _open_socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "raw `socket()`": _open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "unix `socket()`": _open_socket(_UNIX, socket.SOCK_STREAM),
    "netlink `socket()`": _open_socket(16, socket.SOCK_RAW),
    "`fork()`": _fork,
    "start a thread": _thread,
    "`ptrace()`": _trace,
    "`mount()`": _mount,
    "read the supervisor's memory": _read_memory,
    "send the supervisor a signal": _signal,
    "`setuid(0)`": _become_root,
    "a new user namespace": _unshare,
    "make memory executable": _make_code,
    "`io_uring_setup()`": _io_uring,
    "`execve()`": _exec,
}


def outcomes() -> dict[str, str]:
    """How each attempt ends in this process."""
    found = {}
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
            found[name] = "works"
        except OSError as error:
            found[name] = errno.errorcode[error.errno or 0]
        except RuntimeError:
            found[name] = "EAGAIN"
    return found
