"""What a restarted daemon leaves in its place."""

import fcntl
import resource
import socket
import subprocess
import sys

import pytest

from pipeline.daemon import minder

START = """
import os, sys
fd, path = sys.argv[1:]
pid = os.fork()
if pid == 0:
    os.read(0, 1)
    os._exit(7)
os.execv(sys.executable, [sys.executable, "-I", "-S", path, fd, str(pid)])
"""


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 1024, reason="needs more than 1024 descriptors"
)
def test_it_minds_a_daemon_that_has_had_many_descriptors() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(fileno=fcntl.fcntl(theirs, fcntl.F_DUPFD, 1024)) as large:
        words = [sys.executable, "-c", START, str(large.fileno()), str(minder.__file__)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[large.fileno()]) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            assert process.stdin is not None
            process.stdin.write(b"x")
            process.stdin.flush()
            assert process.wait(20) == 7, "the status of the daemon"
