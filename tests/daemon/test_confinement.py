"""The sandboxes of the worker processes: what each process can still do, from inside it.

The workers are made as the daemon makes them. Instead of its loop, each runs attempts to get out.
"""

import json
import os
import re
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import merge, options
from pipeline.config.choices import AUTO, SEPARATE
from pipeline.config.model import Config
from pipeline.daemon import confinement, placement, processes
from pipeline.daemon.confinement import SandboxError
from pipeline.daemon.processes import Running
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric
from pipeline.system.sandbox import landlock, libseccomp
from pipeline.topology import Layout
from tests.support import sandbox_probes
from tests.support.lone_daemon import LoneDaemon
from tests.support.machine import skip_in_private_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
DOCS = Path(__file__).parents[2] / "docs" / "security.md"
SECONDS = 30.0
STATUS = ("Seccomp", "NoNewPrivs", "CapEff", "CapPrm", "CapBnd", "Uid", "Gid", "Groups")


def config_of(*words: str) -> Config:
    found, _ = merge.build(flags.parse(options.START, list(words)), list(words), resolv_conf=os.devnull)
    return found


class Found:
    """What the processes have reported, and what the system says of them, by name of the process."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, str]] = {}
        self.status: dict[str, dict[str, str]] = {}
        self.pids: list[int] = []


def start(*words: str, private: Sequence[socket.socket] = (), kind: str = SEPARATE) -> list[Running]:
    layout = Layout(64, 1, 1)
    groups = placement.plan(kind, layout, 1)
    fabric = Fabric.create(layout, [group.members for group in groups])
    running, nursery = processes.start(fabric, groups, config_of(*words, "-placement", kind), private)
    nursery.close()
    return running


def run(monkeypatch: pytest.MonkeyPatch, *words: str, kind: str = SEPARATE) -> Found:
    """Start all processes with these flags, and let each make its attempts."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    class Attempts:
        """Takes the place of the loop."""

        def __init__(self, _waiter: object, workers: list[Any], *_: object) -> None:
            self.name = workers[0].name if len(workers) == 1 else "+".join(each.name for each in workers)

        def run(self) -> None:
            report = {"name": self.name, "pid": os.getpid(), "outcomes": sandbox_probes.outcomes()}
            theirs.send(json.dumps(report).encode())
            waiting = select.poll()
            waiting.register(theirs, select.POLLIN)
            waiting.poll(SECONDS * 1000)  # until the test has looked at /proc

    monkeypatch.setattr(processes, "Loop", Attempts)
    running = start(*words, private=[ours], kind=kind)
    found = Found()
    try:
        for _ in running:
            assert select.select([ours], [], [], SECONDS)[0], "a process is silent"
            report = json.loads(ours.recv(1 << 16))
            found.outcomes[report["name"]] = report["outcomes"]
            found.status[report["name"]] = status(report["pid"])
            found.pids.append(report["pid"])
    finally:
        ours.close()
        theirs.close()
        for each in running:
            each.process.kill()
            each.process.join()
            for sock in each.controls.values():
                sock.close()
    return found


def status(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in lines if name in STATUS}


@pytest.fixture
def no_probe_file() -> Iterator[None]:
    path = Path("/tmp/gvtap-sandbox-probe")
    yield
    path.unlink(missing_ok=True)


def documented() -> dict[str, dict[str, str]]:
    """The table of attempts in docs/security.md: outcome by role and attempt."""
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in DOCS.read_text().splitlines()
        if line.startswith("|")
    ]
    head = next(row for row in rows if row[:2] == ["attempt of a process", "ingress"])
    found: dict[str, dict[str, str]] = {role: {} for role in head[1:]}
    for row in rows:
        if row[0] in sandbox_probes.ATTEMPTS and len(row) == len(head):
            for role, cell in zip(head[1:], row[1:], strict=True):
                found[role][row[0]] = cell.strip("`")
    return found


def test_each_worker_can_do_what_the_docs_say_and_no_more(
    monkeypatch: pytest.MonkeyPatch, no_probe_file: None
) -> None:
    found = run(monkeypatch)
    table = documented()
    for name, outcomes in found.outcomes.items():
        assert outcomes == table[re.sub("[0-9]+$", "", name)], name
    assert len(found.outcomes) == 6


def test_a_worker_gives_back_the_pages_of_its_start_while_it_still_finds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def give_back() -> None:
        theirs.send(b"%d %d" % (os.getpid(), os.access("/proc/self/maps", os.R_OK)))

    monkeypatch.setattr(processes.resident, "give_back", give_back)
    with ours, theirs:
        found = run(monkeypatch)
        expected = {os.getpid(), *found.pids}
        assert {ours.recv(99) for _ in expected} == {b"%d 1" % pid for pid in expected}


def test_the_system_confirms_it(monkeypatch: pytest.MonkeyPatch, no_probe_file: None) -> None:
    for name, found in run(monkeypatch).status.items():
        assert found == {
            "Seccomp": "2",
            "NoNewPrivs": "1",
            **dict.fromkeys(("CapEff", "CapPrm", "CapBnd"), "0" * 16),
            **dict.fromkeys(("Uid", "Gid"), "\t".join(["65534"] * 4)),
            "Groups": "",
        }, name


def test_workers_in_one_process_have_what_each_of_them_needs(
    monkeypatch: pytest.MonkeyPatch, no_probe_file: None
) -> None:
    found = run(monkeypatch, kind=AUTO)
    table = documented()
    data, side = found.outcomes["ingress+demux+tcp0+egress0"], found.outcomes["resolver+listen"]
    assert data == table["egress"]
    assert side == table["resolver"]


def test_a_named_user_takes_the_place_of_nobody(monkeypatch: pytest.MonkeyPatch, no_probe_file: None) -> None:
    for name, found in run(monkeypatch, "-user", "daemon").status.items():
        assert found["Uid"].split()[0] == "1", name


def test_a_strict_sandbox_kills_a_worker_that_makes_another_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Offence:
        """Takes the place of the loop."""

        def __init__(self, *_: object) -> None:
            """What the loop gets does not matter."""

        def run(self) -> None:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)

    monkeypatch.setattr(processes, "Loop", Offence)
    for each in start("-sandbox", "strict"):
        each.process.join(SECONDS)
        assert each.process.exitcode == -signal.SIGSYS, each.name


def test_without_a_sandbox_a_process_keeps_its_rights(
    monkeypatch: pytest.MonkeyPatch, no_probe_file: None
) -> None:
    found = run(monkeypatch, "-sandbox", "off")
    assert {each["Seccomp"] for each in found.status.values()} == {"0"}
    assert {each["write a file"] for each in found.outcomes.values()} == {"works"}


# --- what the system lacks ------------------------------------------------------------------------


class Log:
    """The lines about the sandbox."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, event: str, *, missing: str = "") -> None:
        self.lines.append((event, missing))

    info = warning


def lacking(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[tuple[str, str]]:
    """The lines of the log on a system without libseccomp and Landlock."""
    missing = "libnonexistent.so.2 is not installed"
    monkeypatch.setattr(libseccomp, "shortage", lambda: missing)
    monkeypatch.setattr(landlock, "version", lambda: 0)
    log: Any = Log()
    confinement.check(config_of(*words), log)
    lines: list[tuple[str, str]] = log.lines
    return lines


def test_what_is_missing_is_one_line_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lacking(monkeypatch) == [
        (
            "the sandbox of the workers is not whole",
            "system calls are not filtered: libnonexistent.so.2 is not installed; "
            "the kernel has no Landlock, has it switched off, or a filter forbids it",
        )
    ]
    assert lacking(monkeypatch, "-sandbox", "off") == []


def test_a_strict_sandbox_is_whole_or_there_is_no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="sandbox strict: system calls are not filtered: libnonexistent"):
        lacking(monkeypatch, "-sandbox", "strict")


def test_without_landlock_and_filters_there_still_are_no_files_and_no_rights(
    monkeypatch: pytest.MonkeyPatch, no_probe_file: None
) -> None:
    monkeypatch.setattr(libseccomp, "shortage", lambda: "it is not installed")
    monkeypatch.setattr(landlock, "version", lambda: 0)
    found = run(monkeypatch)
    for name in ("ingress", "demux", "tcp0", "egress0", "listen"):
        outcomes = found.outcomes[name]
        assert outcomes["read a file of `/etc`"] == "ENOENT", name
        assert outcomes["write a file"] == "ENOENT", name
        assert outcomes["raw `socket()`"] == "EPERM", name
        assert found.status[name]["Seccomp"] == "0"


def test_a_user_must_exist(tmp_path: Path) -> None:
    text = LoneDaemon(tmp_path, "-user", "no-such-user").refusal()
    assert "user no-such-user: there is no such user (allowed: a user of this system, by name" in text


def test_who_is_not_root_becomes_nobody_else(tmp_path: Path) -> None:
    skip_in_private_directory()
    text = LoneDaemon(tmp_path, "-user", "nobody", user="daemon", group="daemon").refusal()
    assert "user nobody: the daemon cannot become this user: it needs CAP_SETUID" in text


# --- the user of the supervisor -------------------------------------------------------------------


def test_the_supervisor_becomes_the_user_when_everything_is_open(tmp_path: Path) -> None:
    skip_in_private_directory()
    with LoneDaemon(tmp_path, "-user", "daemon", "-forward", "127.0.0.1:1023:80") as daemon:
        found = status(daemon.process.pid)
        assert (found["Uid"].split()[0], found["CapEff"]) == ("1", "0" * 16)
        answer = daemon.ask(b"GET /services/forwarder/all HTTP/1.0\r\n\r\n")
        assert b"127.0.0.1:1023" in answer
        body = json.dumps({"local": "127.0.0.1:1022", "remote": "192.168.127.2:80"}).encode()
        head = b"POST /services/forwarder/expose HTTP/1.0\r\nContent-Type: application/json\r\n"
        refused = daemon.ask(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert b"permission denied" in refused
