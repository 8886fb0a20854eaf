"""resolv.conf: who writes it, what stands in it, and that the old content comes back."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import resolv_conf
from guest.resolv_conf import AUTO, NONE, ResolvConf
from pipeline.wire import ip
from tests.support.machine import skip_without_user_namespaces
from tests.support.netns import Network

SERVERS = (ip.parse_ipv4("192.168.127.1"), ip.parse_ipv4("10.0.0.1"))
OLD = b"# mine\nsearch home.test\nnameserver 10.9.9.9\n"
TOOL = """#!/bin/sh
echo "$(basename $0) $*" >> {record}
cat >> {record}
exit {status}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_bytes(OLD)
    return path


@pytest.fixture(autouse=True)
def machines_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests run as on a machine of their own, wherever they run."""
    monkeypatch.setattr(resolv_conf, "_is_machines_network", lambda: True)


def effective(path: Path) -> list[str]:
    """The lines that count."""
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    return [line.decode() for line in lines if not line.startswith(b"#")]


def test_servers_and_search_list_stand_there_and_the_old_content_comes_back(file: Path) -> None:
    names = ResolvConf(str(file), "tap0")
    names.set(SERVERS, ("a.test", "b.test"))
    assert effective(file) == ["search a.test b.test", "nameserver 192.168.127.1", "nameserver 10.0.0.1"]
    names.restore()
    assert file.read_bytes() == OLD
    names.restore()
    assert file.read_bytes() == OLD


def test_a_second_lease_does_not_lose_the_first_content(file: Path) -> None:
    names = ResolvConf(str(file), "tap0")
    names.set(SERVERS, ("a.test",))
    names.set(SERVERS[1:])
    assert effective(file) == ["nameserver 10.0.0.1"]
    names.restore()
    assert file.read_bytes() == OLD


def test_a_lease_without_servers_leaves_the_file_as_it_was(file: Path) -> None:
    names = ResolvConf(str(file), "tap0")
    names.set(())
    assert file.read_bytes() == OLD
    names.set(SERVERS)
    names.set(())
    assert file.read_bytes() == OLD


@pytest.mark.parametrize("choice", ["", NONE])
def test_nothing_is_written_where_nothing_is_wanted(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ResolvConf(choice, "tap0").set(SERVERS)
    assert os.listdir(tmp_path) == []


def test_a_file_that_was_not_there_is_gone_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    names = ResolvConf(str(path), "tap0")
    names.set(SERVERS)
    assert len(effective(path)) == 2
    names.restore()
    assert not path.exists()


def test_after_kill_9_the_next_run_restores_the_old_content(file: Path) -> None:
    ResolvConf(str(file), "tap0").set(SERVERS)  # and no restore()
    names = ResolvConf(str(file), "tap0")
    names.set(SERVERS[1:])
    names.restore()
    assert file.read_bytes() == OLD


def test_what_another_program_has_written_since_stays(file: Path) -> None:
    names = ResolvConf(str(file), "tap0")
    names.set(SERVERS)
    file.write_text("nameserver 8.8.8.8\n")
    names.restore()
    assert file.read_text() == "nameserver 8.8.8.8\n"


@pytest.mark.parametrize("in_place", [False, True])
@given(old=st.one_of(st.none(), st.binary(max_size=200)))
def test_any_old_content_comes_back_byte_for_byte(
    in_place: bool, tmp_path_factory: pytest.TempPathFactory, old: bytes | None
) -> None:
    path = tmp_path_factory.mktemp("etc") / "resolv.conf"
    if old is not None:
        path.write_bytes(old)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolv_conf, "_is_mount_point", lambda file: in_place)
        names = ResolvConf(str(path), "tap0")
        names.set(SERVERS)
        assert effective(path) == ["nameserver 192.168.127.1", "nameserver 10.0.0.1"]
        names.restore()
    assert (path.read_bytes() if path.exists() else None) == old


def test_mode_is_kept_and_no_other_file_is_left(file: Path) -> None:
    file.chmod(0o640)
    ResolvConf(str(file), "tap0").set(SERVERS)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(file.parent) == ["resolv.conf"]


def test_a_link_to_somewhere_stays_a_link(file: Path) -> None:
    link = file.parent / "link"
    link.symlink_to("resolv.conf")
    names = ResolvConf(str(link), "tap0")
    names.set(SERVERS)
    assert link.is_symlink()
    assert len(effective(file)) == 2
    names.restore()
    assert file.read_bytes() == OLD


# --- what cannot be written -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["dangling link", "directory", "fifo", "huge"])
def test_what_cannot_be_written_is_a_warning(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "resolv.conf"
    if kind == "dangling link":
        path.symlink_to("nowhere/stub.conf")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"x" * (resolv_conf.MAX_BYTES + 1))
    names = ResolvConf(str(path), "tap0")
    names.set(SERVERS)
    names.restore()
    assert f"cannot name the DNS servers in {path}: " in caplog.text
    assert os.listdir(tmp_path) == ["resolv.conf"]


def test_a_full_disk_leaves_the_old_content(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = os.pwrite, [True]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset > 0 and full.pop():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:10] if full else data, offset)

    monkeypatch.setattr(resolv_conf, "_is_mount_point", lambda file: True)
    monkeypatch.setattr(os, "pwrite", pwrite)
    ResolvConf(str(file), "tap0").set(SERVERS)
    assert full == []
    assert file.read_bytes() == OLD


def test_a_signal_does_not_leave_half_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, signals = os.pwrite, [True]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if not signals:
            return real(fd, data, offset)
        signals.pop()
        real(fd, data[:10], offset)
        raise SystemExit(0)  # as the handlers of the agent and its client do

    monkeypatch.setattr(resolv_conf, "_is_mount_point", lambda file: True)
    monkeypatch.setattr(os, "pwrite", pwrite)
    names = ResolvConf(str(file), "tap0")
    with pytest.raises(SystemExit):
        names.set(SERVERS)
    assert len(effective(file)) == 2
    names.restore()
    assert file.read_bytes() == OLD


# --- owners ---------------------------------------------------------------------------


class Tool:
    """A stand-in for an owner's program, first on PATH."""

    def __init__(self, directory: Path, name: str, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> None:
        self._record = directory / "record"
        self._record.touch()
        path = directory / name
        path.write_text(TOOL.format(record=self._record, status=status))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")

    def lines(self) -> list[str]:
        """Its command lines and inputs."""
        return self._record.read_text().splitlines()


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A link to a file of systemd-resolved."""
    owned = tmp_path / "run" / "systemd" / "resolve" / "stub-resolv.conf"
    owned.parent.mkdir(parents=True)
    owned.write_bytes(OLD)
    link = tmp_path / "resolv.conf"
    link.symlink_to(owned)
    return link


def test_systemd_resolved_is_asked_where_it_owns_the_file(
    stub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool(tmp_path, "resolvectl", monkeypatch)
    names = ResolvConf(str(stub), "tap0")
    names.set(SERVERS, ("a.test",))
    asked = ["resolvectl dns tap0 192.168.127.1 10.0.0.1", "resolvectl domain tap0 a.test"]
    assert tool.lines() == asked
    names.restore()
    assert tool.lines() == [*asked, "resolvectl revert tap0"]
    assert stub.read_bytes() == OLD


@pytest.mark.parametrize("installed", [True, False])
def test_the_file_is_written_where_its_owner_does_not_do_it(
    installed: bool, stub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        Tool(tmp_path, "resolvectl", monkeypatch, status=1)
    else:
        monkeypatch.setattr(resolv_conf.shutil, "which", lambda name, path: None)
    names = ResolvConf(str(stub), "tap0")
    names.set(SERVERS)
    assert effective(stub) == ["nameserver 192.168.127.1", "nameserver 10.0.0.1"]
    names.restore()
    assert stub.read_bytes() == OLD


@pytest.mark.parametrize("how", ["link", "heading"])
def test_resolvconf_is_asked_where_it_owns_the_file(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool(tmp_path, "resolvconf", monkeypatch)
    path, content = tmp_path / "resolv.conf", b"# Generated by resolvconf\n" + OLD
    if how == "link":
        (tmp_path / "run" / "resolvconf").mkdir(parents=True)
        path.symlink_to(tmp_path / "run" / "resolvconf" / "resolv.conf")
        content = OLD
    path.write_bytes(content)
    names = ResolvConf(str(path), "tap0")
    names.set(SERVERS, ("a.test",))
    lines = ["search a.test", "nameserver 192.168.127.1", "nameserver 10.0.0.1"]
    assert tool.lines() == ["resolvconf -a tap0.gvtap", *lines]
    names.restore()
    assert tool.lines() == ["resolvconf -a tap0.gvtap", *lines, "resolvconf -d tap0.gvtap"]
    assert path.read_bytes() == content


def test_an_ordinary_file_has_no_owner(file: Path) -> None:
    assert resolv_conf.owner_of(str(file)) == ""


def test_owners_of_another_network_are_not_asked(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolv_conf.owner_of(str(stub)) == "resolvectl"
    monkeypatch.setattr(resolv_conf, "_is_machines_network", lambda: False)
    assert resolv_conf.owner_of(str(stub)) == ""


# --- namespaces -----------------------------------------------------------------------

IN_NAMESPACE = f"""
import logging
from guest.resolv_conf import ResolvConf
from pipeline.wire import ip
logging.basicConfig()
names = ResolvConf({AUTO!r}, "tap0")
names.set([ip.from_ipv4(0xC0A87F01)])
print(open("/etc/resolv.conf").read(), end="")
names.restore()
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.mark.e2e
def test_the_file_of_a_namespace_is_written_in_place_and_restored(network: Network) -> None:
    network.guest.resolv_conf.write_bytes(OLD)
    before = Path("/etc/resolv.conf").read_bytes(), set(os.listdir("/etc"))
    done = network.guest.run(sys.executable, "-c", IN_NAMESPACE)
    assert "\nnameserver 192.168.127.1\n" in done.stdout
    assert network.guest.resolv_conf.read_bytes() == OLD
    assert (Path("/etc/resolv.conf").read_bytes(), set(os.listdir("/etc"))) == before


UNSEEN = {
    "processes": ("--net", "--pid", "--fork", "--mount-proc"),
    "processes, with the outer /proc": ("--net", "--pid", "--fork"),
    "users": ("--user", "--map-root-user", "--net"),
}


def process_1_has_another_root() -> bool:
    """Whether this is a changed root, as far as process 1 shows its own."""
    try:
        return not os.path.samefile("/proc/1/root", "/")
    except PermissionError:
        return False


def skip_unless_possible(flags: tuple[str, ...]) -> None:
    """A program in a changed root may not make namespaces of users (user_namespaces(7))."""
    if "--user" in flags:
        skip_without_user_namespaces()
    if flags == UNSEEN["processes, with the outer /proc"] and process_1_has_another_root():
        pytest.skip("in a changed root, process 1 has another file than the processes that share ours")


@pytest.mark.e2e
@pytest.mark.parametrize("flags", [("--net={netns}",), *UNSEEN.values()], ids=["network", *UNSEEN])
def test_a_namespace_without_a_file_of_its_own_leaves_the_machines_alone(
    flags: tuple[str, ...], network: Network
) -> None:
    skip_unless_possible(flags)
    # The machine's file, made read-only for the case that the program does not: its directory is, as well.
    # Not a mount point of its own, which would count as the namespace's.
    enter = f"""
        mount --bind /etc /etc && mount -o remount,bind,ro /etc &&
        exec {"nsenter" if "{netns}" in flags[0] else "unshare"} "$@"
    """
    words = [flag.format(netns=f"/run/netns/{network.guest.name}") for flag in flags]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", enter, "sh", *words, sys.executable, "-c", IN_NAMESPACE],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == Path("/etc/resolv.conf").read_text()
    assert "may belong to another network namespace and is left alone" in done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("flags", UNSEEN.values(), ids=UNSEEN)
def test_a_mounted_file_is_the_namespaces_own_though_nobody_outside_is_seen(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    skip_unless_possible(flags)
    own = tmp_path / "resolv.conf"
    own.write_bytes(OLD)
    enter = f"""mount --bind {own} /etc/resolv.conf && exec "$@" """
    done = subprocess.run(
        ["unshare", *flags, "--mount", "sh", "-c", enter, "sh", sys.executable, "-c", IN_NAMESPACE],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\nnameserver 192.168.127.1\n" in done.stdout
    assert own.read_bytes() == OLD


def test_the_machine_itself_gets_its_file_though_it_may_not_look_at_process_1(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolv_conf, "_outer_processes", list)
    assert not resolv_conf.is_of_another_network(str(file))
    monkeypatch.setattr(resolv_conf, "_is_machines_network", lambda: False)
    assert resolv_conf.is_of_another_network(str(file))


@pytest.mark.e2e
def test_the_first_network_namespace_is_told_from_others(network: Network) -> None:
    look = "from guest import resolv_conf; print(resolv_conf._is_machines_network())"
    assert network.guest.run(sys.executable, "-c", look).stdout == "False\n"
