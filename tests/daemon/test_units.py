"""The units of contrib/systemd: systemd takes them, and their sandbox leaves the program what it needs."""

import contextlib
import re
import shutil
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from pipeline.config import options
from pipeline.go import flags
from tests.support.lone_daemon import LoneDaemon
from tests.support.nats import LocalServer, missing, seed
from tests.support.netns import wait_for

UNITS = Path(__file__).resolve().parents[2] / "contrib" / "systemd"
FLEET = "gvtap-fleet@.service"
NAMES = ("gvtap-pipeline.service", "gvtap-pipeline@.service", FLEET)
EXPOSURE = 13
"""The most that `systemd-analyze security` may find, in tenths."""
HARMLESS = ("mbind",)
"""Calls that the filter refuses, and whose callers go on. numpy's linear algebra asks for near memory."""

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def setting(name: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (UNITS / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    text = (UNITS / name).read_text()
    # The program need not be installed here. verify checks that it is.
    unit = tmp_path / name.replace("@", "@one")
    unit.write_text(text.replace("/usr/local/bin/gvtap-pipeline", sys.executable))
    unit.write_text(unit.read_text().replace("Documentation=man:gvtap-pipeline(1)\n", ""))
    assert analyze("verify", "--man=no", unit) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_the_exposure_is_low(name: str) -> None:
    status, text = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", UNITS / name)
    assert status == 0, text


def test_all_units_have_the_same_sandbox() -> None:
    one, *others = ((UNITS / name).read_text().partition("# `systemd-analyze security`")[2] for name in NAMES)
    assert one
    assert others == [one] * (len(NAMES) - 1)


def test_the_unit_of_a_fleet_gives_the_seed_to_the_program() -> None:
    """DynamicUser cannot read a file of root."""
    (credential,) = setting(FLEET, "LoadCredential")
    name, _, path = credential.partition(":")
    (command,) = setting(FLEET, "ExecStart")
    words = command.split()[1:]
    assert f"-fleet-nkey %d/{name}" in command
    assert Path(path).parent == Path(words[words.index("-config") + 1]).parent
    parsed = flags.parse(options.START, [word.replace("%d", "/run") for word in words[1:]])
    assert parsed.text("fleet-nkey") == f"/run/{name}"


@cache
def calls_of(group: str) -> frozenset[str]:
    """The system calls of one of systemd's groups."""
    status, text = analyze("syscall-filter", group)
    assert status == 0, text
    words = [line.strip() for line in text.splitlines()[1:]]
    found = {word for word in words if word and not word.startswith(("#", "@"))}
    return frozenset(found.union(*(calls_of(word) for word in words if word.startswith("@"))))


def allowed_calls(name: str) -> set[str]:
    allowed = set(calls_of("@default"))
    for words in setting(name, "SystemCallFilter"):
        names = words.removeprefix("~").split()
        groups = map(calls_of, (name for name in names if name.startswith("@")))
        calls = {name for name in names if not name.startswith("@")}.union(*groups)
        allowed = allowed - calls if words.startswith("~") else allowed | calls
    return allowed


def fleet_flags(server: LocalServer, seed_path: str) -> tuple[str, ...]:
    """A host of a fleet whose servers and link are on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    link = ("-link", f"vxlan+udp://127.0.0.1:{port}?vni=7")
    own = ("-fleet-host", "alpha", "-fleet-nkey", seed_path)
    return "-fleet", f"nats://127.0.0.1:{server.port}", *own, *link


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("name", [NAMES[1], FLEET])
def test_the_sandbox_allows_every_system_call_of_the_program(name: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        more: tuple[str, ...] = ()
        if name == FLEET:
            if missing():
                pytest.skip(missing())
            pytest.importorskip("nats")
            path, public = seed(tmp_path, "alpha")
            config = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
            more = fleet_flags(stack.enter_context(LocalServer(tmp_path, config)), path)
        check_sandbox(name, tmp_path, more)


def check_sandbox(name: str, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Run the program with these flags, and compare its system calls with the unit."""
    # Calls that the filter allows run at full speed. Sockets are traced for their families.
    untraced = ",".join(f"?{call}" for call in sorted(allowed_calls(name) - {"socket"}))
    trace = tmp_path / "trace"
    config = tmp_path / "config.yaml"
    config.write_text('stack: {forwards: {"udp:127.0.0.1:0": "192.168.127.2:53"}}')
    daemon = LoneDaemon(
        tmp_path,
        *("-config", str(config), "-state-file", f"{tmp_path}/leases", "-metrics", "127.0.0.1:0"),
        *more,
    )
    daemon.command = [
        *("strace", "-f", "-qq", "--seccomp-bpf", "-o", str(trace), "-e", f"trace=!{untraced}"),
        *("-e", f"inject={','.join(HARMLESS)}:error=EPERM"),
        *daemon.command,
    ]
    daemon.start()
    try:
        daemon.wait_until_ready()
        if more:
            wait_for(lambda: "fleet reached" in daemon.errors(), "the fleet", 30.0)
        expose = {"local": "localhost:0", "remote": "192.168.127.2:80", "protocol": "tcp"}
        assert daemon.post("/services/forwarder/expose", expose)[0] == 200
        assert daemon.ask(b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
        (pid,) = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        subprocess.run(["kill", "-TERM", pid], check=True)
        assert daemon.process.wait(20) == 0, daemon.errors()
    finally:
        daemon.kill()
    lines = [line.split(None, 1)[1] for line in trace.read_text().splitlines()]
    found = {line.partition("(")[0] for line in lines if line[0] not in "-+<"}
    # The unit's daemon is not root, as it is here. So its workers change neither user nor capabilities.
    of_root = {"setresuid", "setresgid", "setgroups", "capset"}
    assert found <= {"socket", *HARMLESS, *of_root}, "calls that the filter forbids"
    families = set(re.findall(r"^socket\((\w+),", "\n".join(lines), re.MULTILINE))
    (allowed,) = setting(name, "RestrictAddressFamilies")
    assert "AF_INET" in families
    # Without netlink, getaddrinfo() takes it that the host has both families.
    assert families - {"AF_NETLINK"} <= set(allowed.split())
