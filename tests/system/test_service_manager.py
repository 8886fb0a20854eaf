"""Messages to the manager of services."""

import os
import re
import socket
from pathlib import Path

import pytest

from pipeline.system.service_manager import READY, ServiceManager


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_reaches_the_manager(tmp_path: Path, abstract: bool) -> None:
    name = f"gvtap-test-{os.getpid()}"
    path = f"@{name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else path)
        environ = {"NOTIFY_SOCKET": path, "HOME": "/"}
        ServiceManager(environ, 1).notify(READY)
        assert manager.recv(100) == b"READY=1"
        assert environ == {"HOME": "/"}


def test_a_reload_is_reported_with_its_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}, 1).reloading()
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=[0-9]+", manager.recv(100))


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}, 1).notify(READY)
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 1).notify(READY)


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_half_the_time_of_the_watchdog_passes_between_messages(more: dict[str, str], seconds: float) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/s", **more}, 7).alive_every == seconds
