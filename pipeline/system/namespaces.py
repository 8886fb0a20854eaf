"""Linux namespaces: runs a function in another network and user namespace, in a child process.

A process that enters a user namespace cannot come back, and it must have one thread. So a child does it. It
sends back the descriptors that the function has opened, or says what went wrong. The caller stays where it
is.
"""

import ctypes
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

try:
    import fcntl
except ImportError:  # Windows, where nothing here is called
    fcntl = None  # type: ignore[assignment]

CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
_KINDS: Final = {CLONE_NEWUSER: "user", CLONE_NEWNET: "network"}

_OWN_USERNS: Final = "/proc/self/ns/user"
_NS_GET_USERNS: Final = 0xB701
_NS_GET_NSTYPE: Final = 0xB703
_DONE: Final = b"\0"
_MAX_FDS: Final = 16
_MAX_TEXT: Final = 4096


class NamespaceError(Exception):
    """A step in the other namespace failed. The text says which one, and why."""


def open_namespace(path: str, kind: int) -> int:
    """A descriptor of the namespace of this kind (CLONE_*) that a path names. Raises NamespaceError."""
    try:
        # A path may name anything. To open a FIFO would wait for its other end.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NamespaceError(f"{path}: {_words(error)}") from None
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        found = 0
    if found != kind:
        os.close(fd)
        raise NamespaceError(f"{path} is not a {_KINDS[kind]} namespace")
    return fd


def owner_to_enter(netns: int) -> int:
    """A descriptor of the user namespace that owns a network namespace; -1 if entering it is no use.

    That is so for our own user namespace, in which we are, and for those above, which nobody can enter.
    """
    try:
        owner: int = fcntl.ioctl(netns, _NS_GET_USERNS)
    except OSError:
        return -1
    if os.path.samestat(os.fstat(owner), os.stat(_OWN_USERNS)):
        os.close(owner)
        return -1
    return owner


def is_own_userns(userns: int) -> bool:
    """Whether a descriptor is of our own user namespace. The system refuses to enter that."""
    return os.path.samestat(os.fstat(userns), os.stat(_OWN_USERNS))


def enter(namespace: int, kind: int) -> None:
    """Enter a namespace of this kind (CLONE_*). Raises OSError."""
    _call("setns", namespace, kind)


def leave(kind: int) -> None:
    """Change to a new namespace of this kind. Raises OSError."""
    _call("unshare", kind)


@contextmanager
def doing(step: str) -> Iterator[None]:
    """An OSError in the block becomes a NamespaceError that names the step."""
    try:
        yield
    except OSError as error:
        raise NamespaceError(f"cannot {step}: {_words(error)}") from error


def run_inside(function: Callable[[], Sequence[int]]) -> list[int]:
    """Run function in a child, which may enter namespaces. Returns copies of the descriptors that it returns.

    The child must not use threads, locks or event loops of this process. Raises NamespaceError with its text.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        pid = os.fork()
        if pid == 0:
            _child(function, theirs)
        theirs.close()
        try:
            text, fds, _, _ = socket.recv_fds(ours, _MAX_TEXT, _MAX_FDS)
        finally:
            # A parent that ignores SIGCHLD has left that to us, and then there is nothing to wait for.
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    for fd in fds:
        os.set_inheritable(fd, False)
    if text != _DONE:
        for fd in fds:
            os.close(fd)
        raise NamespaceError(text.decode("utf-8", "replace") or "the child process ended")
    return list(fds)


def _child(function: Callable[[], Sequence[int]], answer: socket.socket) -> NoReturn:
    """Never returns, and runs no handler and no clean-up of the parent."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        socket.send_fds(answer, [_DONE], list(function()))
    except BaseException as error:
        text = _words(error) if isinstance(error, OSError) else str(error) or repr(error)
        answer.send(text.encode("utf-8", "replace")[:_MAX_TEXT])
    finally:
        os._exit(0)


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _words(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
