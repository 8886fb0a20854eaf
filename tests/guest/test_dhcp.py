"""Which DHCP client is taken, and how its end is seen."""

import os
import select
import sys
import time
from pathlib import Path

import pytest

from guest import dhcp
from guest.dhcp import Client, DhcpError


def install(directory: Path, *names: str) -> None:
    """Put empty programs of these names into directory."""
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)


@pytest.mark.parametrize(
    "installed, choice, program",
    [
        (["udhcpc", "dhclient"], "auto", "udhcpc"),
        (["dhclient"], "auto", "dhclient"),
        ([], "auto", sys.executable),
        ([], "udhcpc", "udhcpc"),
        (["udhcpc"], "dhclient", "dhclient"),
        (["udhcpc"], "builtin", sys.executable),
    ],
)
def test_the_first_installed_client_is_taken_in_the_order_of_gvforwarder(
    installed: list[str], choice: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, *installed)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = dhcp.command(choice, "tap0")
    assert words is not None
    assert words[0] == program


def test_command_lines_are_those_of_gvforwarder() -> None:
    assert dhcp.command("udhcpc", "tap9") == ["udhcpc", "-f", "-q", "-i", "tap9", "-v"]
    assert dhcp.command("dhclient", "tap9") == ["dhclient", "-4", "-d", "-v", "tap9"]


def test_none_means_none() -> None:
    assert dhcp.command("none", "tap0") is None


def test_a_client_that_succeeds_and_ends_is_done() -> None:
    client = Client(["true"])
    assert select.select([client.fd], [], [], 5)[0]
    client.check()
    client.stop()


def test_a_client_that_fails_is_an_error() -> None:
    client = Client(["false"])
    assert select.select([client.fd], [], [], 5)[0]
    with pytest.raises(DhcpError, match="false ended with status 1"):
        client.check()
    client.stop()


def test_a_client_that_cannot_be_started_is_an_error() -> None:
    with pytest.raises(DhcpError, match="cannot start no-such-client"):
        Client(["no-such-client"])


def test_stop_ends_a_running_client_and_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    began = time.monotonic()
    Client(["sleep", "60"]).stop()
    assert time.monotonic() - began < 2
    assert os.listdir("/proc/self/fd") == before
