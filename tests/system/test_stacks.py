"""SIGQUIT's dump of the supervisor, wherever it runs."""

import os
import tempfile
from collections.abc import Callable

import pytest

from pipeline.system import stacks


def no_directory() -> None:
    raise FileNotFoundError(2, "No usable temporary directory found")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", no_directory)


def in_a_function(dump: Callable[[], str]) -> str:
    return dump()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")
def test_the_dump_needs_no_directory_for_temporary_files() -> None:
    text = in_a_function(stacks.traceback)
    assert "most recent call first" in text
    assert "in in_a_function" in text


def test_a_dump_that_has_no_file_says_so_and_the_daemon_ends_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert stacks.traceback() == (
        "no traceback of the supervisor: [Errno 2] No usable temporary directory found\n"
    )
