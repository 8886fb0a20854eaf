"""Which DHCP client is taken, and how its end is seen."""

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guest import dhcp, resolv_conf
from guest.dhcp import Client, DhcpError, Keeper


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
    monkeypatch.setattr(resolv_conf, "is_of_another_network", lambda path: False)
    assert dhcp.commands(choice, "tap0")[0][0] == program


def test_the_others_follow_and_the_builtin_client_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "udhcpc", "dhclient")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(resolv_conf, "is_of_another_network", lambda path: False)
    assert [words[0] for words in dhcp.commands("auto", "tap0")] == ["udhcpc", "dhclient", sys.executable]
    assert len(dhcp.commands("udhcpc", "tap0")) == 1


def test_no_script_of_a_dhcp_client_writes_the_resolv_conf_of_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "udhcpc", "dhclient")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(resolv_conf, "is_of_another_network", lambda path: path == "/etc/resolv.conf")
    assert [words[0] for words in dhcp.commands("auto", "tap0", "none")] == [sys.executable]
    assert dhcp.commands("udhcpc", "tap0")[0][0] == "udhcpc", "who asks for it gets it"


def test_command_lines_are_those_of_gvforwarder() -> None:
    assert dhcp.commands("udhcpc", "tap9") == [["udhcpc", "-f", "-q", "-i", "tap9", "-v"]]
    assert dhcp.commands("dhclient", "tap9") == [["dhclient", "-4", "-d", "-v", "tap9"]]


def test_none_means_none() -> None:
    assert dhcp.commands("none", "tap0") == []


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


@pytest.mark.e2e
def test_the_builtin_client_ends_when_its_parent_is_gone() -> None:
    """Whatever killed the parent: what the client has set must not outlive it."""
    client = Client(dhcp.commands("builtin", "lo", "none")[0])
    assert select.select([client.fd], [], [], 1)[0] == []
    assert client._process.stdin is not None
    client._process.stdin.close()
    assert select.select([client.fd], [], [], 5)[0]
    client.check()
    client.stop()


def test_a_kernel_without_pidfd_costs_the_notice_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    watched: dict[int, Callable[[], None]] = {}
    keeper = Keeper([["sleep", "60"]], "lo", watched)
    keeper.start()
    assert watched == {}
    assert "the end of sleep will go unnoticed" in caplog.text
    keeper.stop()


# --- a client that fails ----------------------------------------------------------------


class Kept:
    """A keeper and what watches for it; each client leaves a letter in a file."""

    def __init__(self, directory: Path, interface: str, *scripts: str, **times: float) -> None:
        self._path = directory / "began"
        self._path.touch()
        self.watched: dict[int, Callable[[], None]] = {}
        clients = [
            ["sh", "-c", f"printf {name} >> {self._path}; {script}"]
            for name, script in zip("abc", scripts, strict=False)
        ]
        self.keeper = Keeper(clients, interface, self.watched, **times)

    def run(self, began: str, seconds: float = 10.0) -> None:
        """Let it work until these clients began and whatever follows came to rest."""
        end = time.monotonic() + seconds
        while self._path.read_text() != began:
            assert time.monotonic() < end, f"{self._path.read_text()} began, not {began}"
            self.turn(0.05)
        self.turn(0.3)
        assert self._path.read_text() == began

    def turn(self, seconds: float) -> None:
        """What a loop does: call for the first readable descriptor."""
        ready = select.select(list(self.watched), [], [], seconds)[0]
        if ready:
            self.watched[ready[0]]()

    def __enter__(self) -> "Kept":
        self.keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.keeper.stop()
        assert self.watched == {}


NO_ADDRESS = "nosuch0"


def test_the_next_client_takes_the_place_of_one_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Kept(tmp_path, NO_ADDRESS, "exit 1", "exit 2", "sleep 60") as kept:
        kept.run("abc")
    assert "sh ended with status 1; the next DHCP client takes its place" in caplog.text
    assert "sh ended with status 2; the next DHCP client takes its place" in caplog.text


def test_the_next_client_takes_the_place_of_one_that_sets_no_address(tmp_path: Path) -> None:
    """Such as udhcpc without its script."""
    with Kept(tmp_path, NO_ADDRESS, "exit 0", "sleep 60") as kept:
        kept.run("ab")


def test_the_next_client_takes_the_place_of_one_that_gets_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as dhclient, which declines all addresses when its script fails."""
    with Kept(tmp_path, NO_ADDRESS, "sleep 60", "sleep 60", patience=0.2) as kept:
        kept.run("ab")
    assert "no address by sh within 0 s" in caplog.text


def test_a_client_with_an_address_is_left_alone(tmp_path: Path) -> None:
    for directory, script in ((tmp_path / "ends", "exit 0"), (tmp_path / "stays", "sleep 60")):
        directory.mkdir()
        with Kept(directory, "lo", script, "exit 1", patience=0.2) as kept:
            kept.run("a")


def test_a_chosen_client_that_fails_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Kept(
        tmp_path, NO_ADDRESS, f"test $(cat {tmp_path}/began) = aaa || exit 1; sleep 60", first_wait=0.1
    ) as kept:
        kept.run("aaa")
    assert "sh ended with status 1; it is started again" in caplog.text


def test_a_chosen_client_that_fails_after_it_set_the_address_is_not_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Kept(tmp_path, "lo", "exit 1", first_wait=0.1) as kept:
        kept.run("a")
    assert "sh ended with status 1; lo keeps its address" in caplog.text


def test_a_client_that_cannot_be_started_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched: dict[int, Callable[[], None]] = {}
    keeper = Keeper([[str(tmp_path / "client")]], NO_ADDRESS, watched, first_wait=0.1)
    keeper.start()
    assert "cannot start" in caplog.text
    install(tmp_path, "client")
    ready = select.select(list(watched), [], [], 5)[0]
    watched[ready[0]]()
    assert keeper._client is not None
    keeper.stop()


def test_files_of_the_working_directory_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent runs as root, and its working directory may belong to anybody."""
    planted = tmp_path / "guest"
    planted.mkdir()
    (planted / "__init__.py").write_text("")
    (planted / "dhcp_client.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    Client([*dhcp.commands("builtin", "lo", "none")[0], "-help"]).check()
    assert not (tmp_path / "ran").exists()
