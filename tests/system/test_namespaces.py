"""Functions that run in other namespaces: what comes back, and what is said when a step fails."""

import os
import signal
from pathlib import Path

import pytest

from pipeline.system import namespaces
from pipeline.system.namespaces import CLONE_NEWNET, CLONE_NEWUSER, NamespaceError, doing, run_inside
from tests.support.netns import missing


def test_the_descriptors_of_the_child_come_back() -> None:
    (fd,) = run_inside(lambda: [os.memfd_create("x")])
    try:
        assert not os.get_inheritable(fd)
        assert os.write(fd, b"ok") == 2
    finally:
        os.close(fd)


def test_the_step_that_failed_is_named() -> None:
    def fail() -> list[int]:
        with doing("open nothing"):
            os.open("/nonexistent", os.O_RDONLY)
        return []

    with pytest.raises(NamespaceError, match="cannot open nothing: no such file or directory"):
        run_inside(fail)


def test_a_child_that_dies_is_noticed() -> None:
    def die() -> list[int]:
        os._exit(3)

    with pytest.raises(NamespaceError, match="the child process ended"):
        run_inside(die)


def test_a_path_that_does_not_exist_is_named() -> None:
    with pytest.raises(NamespaceError, match="/run/netns/nosuch: no such file"):
        namespaces.open_namespace("/run/netns/nosuch", CLONE_NEWNET)


def test_a_path_of_something_else_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), str(tmp_path), "/dev/null", "/proc/self/ns/user"):
        with pytest.raises(NamespaceError, match="is not a network namespace"):
            namespaces.open_namespace(path, CLONE_NEWNET)
    with pytest.raises(NamespaceError, match="is not a user namespace"):
        namespaces.open_namespace("/proc/self/ns/net", CLONE_NEWUSER)
    os.close(namespaces.open_namespace("/proc/self/ns/net", CLONE_NEWNET))


def test_a_parent_that_ignores_the_end_of_children_gets_its_descriptors() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        (fd,) = run_inside(lambda: [os.memfd_create("x")])
        os.close(fd)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.e2e
@pytest.mark.skipif(bool(missing()), reason="needs namespaces")
def test_the_caller_stays_where_it_is() -> None:
    before = os.stat("/proc/self/ns/net").st_ino

    def enter() -> list[int]:
        namespaces.leave(CLONE_NEWNET)
        return [os.open("/proc/self/ns/net", os.O_RDONLY)]

    (fd,) = run_inside(enter)
    try:
        assert os.fstat(fd).st_ino != before
        assert os.stat("/proc/self/ns/net").st_ino == before
        assert namespaces.owner_to_enter(fd) == -1, "it belongs to our own user namespace"
    finally:
        os.close(fd)
