"""The Pythons of `make pythons`."""

import sys

import pytest

from tests.support import other_python
from tests.support.private_apt import FetchError


def test_an_installed_python_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_python.shutil, "which", {"python3.13": sys.executable}.get)
    assert other_python.installed("3.13") == sys.executable
    assert other_python.installed("3.12") == ""


def test_one_that_can_make_no_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_python.shutil, "which", lambda _: "/bin/false")
    assert other_python.installed("3.13") == ""


def test_a_python_that_debian_does_not_have_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FetchError, match=r"no Python 3\.1 is installed"):
        other_python.fetched("3.1")
    assert other_python.main(["3.1"]) == 1
    assert capsys.readouterr().err.startswith("Python 3.1 is left out: no Python 3.1 is installed")
