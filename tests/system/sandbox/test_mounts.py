"""An empty mount namespace: a process without files where there is no Landlock."""

import os
from functools import partial

import pytest

from pipeline.system.sandbox import mounts
from tests.support.in_child import in_child, outcome
from tests.support.machine import skip_without_user_namespaces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.parametrize("user", [0, 65534])
def test_no_file_is_left_and_none_can_be_made(user: int) -> None:
    if user:
        skip_without_user_namespaces()
    before = os.listdir("/")

    def run() -> list[object]:
        if user:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        mounts.leave_all()
        new = partial(os.open, "/new", os.O_WRONLY | os.O_CREAT)
        return [os.listdir("/"), outcome(new), outcome(partial(os.listdir, "/proc")), os.getcwd()]

    assert in_child(run) == [[], "Read-only file system", "No such file or directory", "/"]
    assert os.listdir("/") == before
