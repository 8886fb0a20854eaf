"""Rights that a process gives up for good."""

import os
from pathlib import Path

import pytest

from pipeline.system.sandbox import privileges
from tests.support.in_child import in_child

NOBODY = privileges.find("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_users_have_names_and_numbers() -> None:
    assert NOBODY.uid == privileges.NOBODY
    assert privileges.find("0") == privileges.find("root") == ("root", 0, 0)
    for unknown in ("no such user", "4123456789"):
        with pytest.raises(KeyError):
            privileges.find(unknown)


@needs_root
def test_another_user_is_for_good_and_has_no_groups() -> None:
    def run() -> list[object]:
        before = privileges.obstacle(NOBODY)
        privileges.become(NOBODY)
        return [before, os.getresuid(), os.getresgid(), os.getgroups(), privileges.obstacle(NOBODY)]

    number = [privileges.NOBODY] * 3
    assert in_child(run) == ["", number, number, [], ""]


@needs_root
def test_who_has_not_the_capabilities_stays_who_he_is() -> None:
    def run() -> list[str]:
        privileges.drop_capabilities()
        return [privileges.obstacle(NOBODY), privileges.obstacle(privileges.find("root"))]

    assert in_child(run) == ["it needs CAP_SETUID and CAP_SETGID", ""]


@needs_root
def test_capabilities_are_gone_for_good() -> None:
    def run() -> list[str]:
        privileges.drop_bounds()
        privileges.refuse_new()
        privileges.drop_capabilities()
        privileges.hide()
        lines = Path("/proc/self/status").read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith(("Cap", "NoNewPrivs"))]

    assert in_child(run) == [*["0" * 16] * 5, "1"]


def test_a_user_reads_what_the_modes_let_him(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.touch()
    for parent in (tmp_path, *tmp_path.parents):
        if not parent.stat().st_mode & 1:
            # The folder of the test itself is not for others.
            assert not privileges.can_read(NOBODY, str(path))
            break
    user = privileges.User("me", os.geteuid(), os.getegid())
    assert privileges.can_read(user, str(path))
    path.chmod(0o077)
    assert not privileges.can_read(user, str(path))
    assert privileges.can_read(user, str(tmp_path / "nothing"))
