"""Looks at an interface of another namespace."""

import os
from collections.abc import Iterator

import pytest

from pipeline.system.interface import View
from tests.support.netns import Namespace, missing

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(missing()), reason="needs namespaces")]


@pytest.fixture
def guest() -> Iterator[Namespace]:
    made = Namespace(f"gvp{os.getpid()}-view")
    yield made
    made.close()


@pytest.fixture
def view(guest: Namespace) -> Iterator[View]:
    made = View(guest.call(View.make))
    yield made
    made.close()
    made.close()


def test_an_interface_is_followed_by_its_index(guest: Namespace, view: View) -> None:
    assert view.index("seen0") == 0
    guest.ip("tuntap", "add", "seen0", "mode", "tap")
    index = view.index("seen0")
    assert view.name(index) == "seen0"
    assert not view.has_address(index)
    guest.ip("address", "add", "192.0.2.9/24", "dev", "seen0")
    guest.ip("link", "set", "seen0", "name", "seen1")
    assert (view.index("seen0"), view.name(index)) == (0, "seen1")
    assert view.has_address(index)
    guest.ip("link", "delete", "seen1")
    assert view.name(index) == ""
    assert not view.has_address(index)
