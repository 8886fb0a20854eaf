"""A program that is forked runs as its command would."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from perf import compiled
from tests.support import quick_start
from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import Network

PROBE = """
import ctypes, os, signal, sys

def main():
    name = os.path.basename(sys.argv[0])
    print(name, sys.argv[1:], os.getcwd(), os.environ.get("PROBE"), oct(os.umask(0)), sys.stdin.read(3))
    print(sys.flags.safe_path, sorted(os.listdir("/proc/self/fd"))[:-1])
    print([n for n in range(1, 65) if n not in (32, 33) and signal.getsignal(n) == signal.SIG_IGN])
    print(open("/etc/resolv.conf").read(), sorted(os.listdir("/sys/class/net")), file=sys.stderr)
    return 3

if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[quick_start.Program, list[str]]:
    """A program that prints how it was started, and its command line."""
    (tmp_path / "start_probe.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    program = quick_start.Program("start_probe:main", ("start_probe",))
    path = compiled.command("gvtap-pipeline")[:2]
    return program, [*path, sys.executable, "-P", str(tmp_path / "start_probe.py"), "a", "b c"]


def test_it_gets_what_its_command_would_give_it(
    probe: tuple[quick_start.Program, list[str]], tmp_path: Path
) -> None:
    program, argv = probe
    (tmp_path / "in").write_text("xyz")
    outputs = []
    for forked in (True, False):
        with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("w+b") as out:
            options = {"stdin": given, "stdout": out, "stderr": out, "cwd": tmp_path, "umask": 0o027}
            options["env"] = {**os.environ, "PROBE": "set"}
            if forked:
                status = quick_start.popen(program, "", argv, **options).wait(10)
            else:
                status = subprocess.Popen(argv, **options).wait(10)
            assert status == 3
        outputs.append((tmp_path / "out").read_text().splitlines())
    assert "start_probe.py ['a', 'b c']" in outputs[0][0]
    assert outputs[0] == outputs[1]


@pytest.mark.e2e
def test_it_sees_the_files_and_interfaces_of_its_namespace(
    probe: tuple[quick_start.Program, list[str]], tmp_path: Path
) -> None:
    program, argv = probe
    with Network() as network:
        with (tmp_path / "out").open("w+b") as out:
            assert network.host.start(program, argv, stdin=subprocess.DEVNULL, stderr=out).wait(10) == 3
        forked = (tmp_path / "out").read_text()
        assert forked == network.host.run(*argv, check=False).stderr
        assert "veth0" in forked


def test_a_signal_is_its_status_and_a_wait_may_be_too_short(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    with daemon:
        assert isinstance(daemon.process, quick_start.Process)
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(0.01)
        assert daemon.process.poll() is None
    assert daemon.process.returncode == 0
    daemon.start()
    daemon.wait_until_ready()
    daemon.process.kill()
    assert daemon.process.wait(10) == -signal.SIGKILL
    # The pid is free then, and nobody else gets the signal.
    daemon.process.send_signal(signal.SIGTERM)


def test_signals_to_all_processes_of_a_run_leave_the_forking_process(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path) as daemon:
        forking = int(Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(forking, number)
    with LoneDaemon(tmp_path):
        pass


def test_a_command_line_may_be_long(probe: tuple[quick_start.Program, list[str]], tmp_path: Path) -> None:
    program, argv = probe
    with (tmp_path / "out").open("w+b") as out:
        assert quick_start.popen(program, "", [*argv, *(["x" * 100_000] * 5)], stdout=out).wait(10) == 3
    assert (tmp_path / "out").stat().st_size > 500_000


def test_what_it_has_open_does_not_stay_open_in_the_forking_process() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs, open(os.devnull, "wb") as out:
            process = quick_start.popen(
                quick_start.DAEMON, "", [sys.executable, "-m", "pipeline.cli", "-version"],
                stdin=theirs.fileno(), stdout=out, stderr=out,
            )  # fmt: skip
        assert process.wait(10) == 0
        ours.settimeout(5)
        assert ours.recv(1) == b""


def test_the_environment_can_ask_for_the_commands_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(quick_start.VARIABLE, "1")
    with LoneDaemon(tmp_path) as daemon:
        assert isinstance(daemon.process, subprocess.Popen)
