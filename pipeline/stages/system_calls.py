"""System calls that every worker process keeps after its set-up, each with its reason.

The file system_calls.py in the folder of a stage has what this stage needs besides. None of these calls
opens, makes or runs anything outside of the process, except for nameless files in memory.

On a processor without one of these calls, Linux has another one for the same purpose. Both are listed.
"""

import signal
import socket
from typing import Final

from pipeline.system.parent_death import PR_SET_PDEATHSIG
from pipeline.system.sandbox.calls import Arg, Call, Calls, calls, each_value

_PROT_EXEC: Final = 4
_CLONE_THREAD: Final = 0x10000
_AT_EMPTY_PATH: Final = 0x1000
_FIONBIO: Final = 0x5421
_FIONCLEX: Final = 0x5450
_FIOCLEX: Final = 0x5451
_TCGETS: Final = 0x5401
_PR_SET_NAME: Final = 15
_NO_EXEC: Final = (Arg(2, 0, _PROT_EXEC),)

COMMON: Final[Calls] = (
    # memory
    *calls("the allocators of C and Python", "brk", "munmap", "mremap", "madvise"),
    Call("mmap", "the allocators, stacks of threads; but no code", _NO_EXEC),
    Call("mprotect", "stacks of threads; but no code", _NO_EXEC),
    # descriptors that are open already
    *calls("bells, control sockets, log, links", "read", "write", "readv", "writev", "close"),
    *calls("messages in files, and time in run queues", "pread64", "pwrite64", "lseek"),
    *calls("messages in files: nameless, in memory", "memfd_create", "ftruncate"),
    *calls("descriptors of messages that wait", "dup", "fcntl"),
    *calls("a log that was opened again", "dup2", "dup3"),
    *calls("what kind of file a descriptor is", "fstat", "fstatfs"),
    Call("newfstatat", "fstat() of the C library", (Arg(3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),)),
    *each_value("ioctl", "blocking, and inheritance", 1, (_FIONBIO, _FIOCLEX, _FIONCLEX)),
    *each_value("ioctl", "Python asks whether a file is a terminal", 1, (_TCGETS,)),
    # messages with descriptors, over sockets that are open already
    *calls("control sockets", "sendmsg", "recvmsg", "sendto", "recvfrom", "shutdown"),
    *calls("Python asks what a passed socket is", "getsockopt", "getsockname", "getpeername"),
    *calls("buffers and options of passed sockets", "setsockopt"),
    # waiting and waking
    *calls("semaphores, locks, threads", "futex"),
    *calls("the poller", "epoll_wait", "epoll_pwait", "epoll_ctl", "poll", "ppoll"),
    *calls("the poller of a process that gets its first socket", "epoll_create1"),
    *calls("busy-polling yields its core", "sched_yield"),
    # time; usually without a system call
    *calls("the clocks", "clock_gettime", "clock_getres", "gettimeofday", "clock_nanosleep", "nanosleep"),
    *calls("threads of the allocator choose an arena", "sched_getaffinity", "getcpu"),
    # threads: the log's writer and a capture's
    Call("clone", "a thread, but no process", (Arg(0, _CLONE_THREAD, _CLONE_THREAD),)),
    *calls("threads", "set_robust_list", "rseq", "gettid", "exit", "membarrier"),
    *each_value("prctl", "names of threads", 0, (_PR_SET_NAME,)),
    # signals and the end
    *calls("signal handlers", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
    *calls("signal handlers", "restart_syscall"),
    *each_value("prctl", "SIGTERM when the supervisor ends", 0, (PR_SET_PDEATHSIG,)),
    *calls("whether the supervisor is there, and what the log says", "getpid", "getppid"),
    *calls("the end", "exit_group"),
    # randomness
    *calls("hash seeds, initial sequence numbers, ports", "getrandom"),
    Call("prlimit64", "how many descriptors there may be", (Arg(0, 0), Arg(2, 0, (1 << 64) - 1))),
)

ABSENT: Final[Calls] = calls(
    "the C library then uses an older call, whose arguments can be checked",
    *("clone3", "openat2", "faccessat2", "close_range", "epoll_pwait2", "futex_waitv", "statx"),
)
"""Calls that fail as if the kernel did not have them."""

FRUITLESS: Final[Calls] = (
    *calls("Python looks for the source of a traceback", "openat", "open", "stat"),
    Call("newfstatat", "the same", (Arg(3, 0, _AT_EMPTY_PATH),)),
    *calls("Python looks for the source of a traceback", "readlink", "readlinkat", "getcwd"),
    *calls("Python looks for the source of a traceback", "access", "faccessat"),
)
"""Calls without an effect that Python makes now and then. They are refused, but never kill the process."""

INET_SOCKETS: Final[Calls] = (
    *(
        Call("socket", "sockets to hosts", (Arg(0, family), Arg(1, kind, 0xF)))
        for family in (socket.AF_INET, socket.AF_INET6)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    ),
    *calls("sockets to hosts", "connect", "bind"),
    *calls("many datagrams at once", "recvmmsg", "sendmmsg"),
)
"""For stages that reach hosts. SOCK_DGRAM is for UDP, and for pings. Raw sockets are not among them."""

OWN_SIGNALS: Final[Calls] = (Call("tgkill", "abort()", (Arg(2, int(signal.SIGABRT)),)),)
"""The signal with which abort() ends the process. It may go only to the process itself: see Profile.own."""
