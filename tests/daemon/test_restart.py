"""A running daemon is replaced by a new version. Without guests; tests/e2e/test_restarted.py has them."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pipeline.wire import arp, ethernet, ip
from tests.support.lone_daemon import LoneDaemon
from tests.support.machine import skip_in_private_directory
from tests.support.netns import new_shared_memory, shared_memory, wait_for
from tests.support.restarts import await_end, descriptors, family, restart

GUEST = "192.168.127.2:80"
REFUSED = "not restarted: nothing has changed"
TAKEN_OVER = "taken over from a predecessor"


def events(daemon: LoneDaemon, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in daemon.errors().splitlines() if line.endswith("}")]
    return [line for line in lines if line["event"] == event]


def get(daemon: LoneDaemon, path: str) -> Any:
    head, _, body = daemon.ask(f"GET {path} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200"), head
    return json.loads(body)


def put(daemon: LoneDaemon, path: str, body: object) -> tuple[int, bytes]:
    data = json.dumps(body).encode()
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    first, _, text = daemon.ask(head.encode() + data).partition(b"\r\n\r\n")
    return int(first.split(b" ", 2)[1]), text


def expose(daemon: LoneDaemon, local: str, protocol: str = "tcp") -> str:
    """Open a forward. Returns its local address."""
    remote = f"tcp://{GUEST}" if protocol == "unix" else GUEST
    status, answer = daemon.post(
        "/services/forwarder/expose", {"local": local, "remote": remote, "protocol": protocol}
    )
    assert status == 200, answer
    return str(json.loads(answer)["local"]) if answer else local


def forwards(daemon: LoneDaemon) -> set[tuple[str, str]]:
    return {(each["protocol"], each["local"]) for each in get(daemon, "/services/forwarder/all")}


def command(daemon: LoneDaemon, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pipeline.cli", "restart", "-api", f"unix://{daemon.socket}", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=90, check=False)


def test_the_command_prints_the_new_process_and_everything_is_there_again(tmp_path: Path) -> None:
    pid_file, unix = tmp_path / "pid", tmp_path / "forward.sock"
    with LoneDaemon(tmp_path, "-pid-file", str(pid_file)) as daemon:
        before = shared_memory()
        opened = {
            ("tcp", expose(daemon, "127.0.0.1:0")),
            ("udp", expose(daemon, "127.0.0.1:0", "udp")),
            ("unix", expose(daemon, str(unix), "unix")),
        }
        daemon.post("/services/dns/add", {"Name": "own.test.", "Records": [{"Name": "a", "IP": "10.0.0.1"}]})
        old = int(pid_file.read_text())
        done = command(daemon)
        assert (done.returncode, done.stderr) == (0, "")
        new = int(done.stdout)
        assert new != old
        assert pid_file.read_text() == str(new)
        await_end(old)
        assert forwards(daemon) == opened
        assert "own.test." in [zone["Name"] for zone in get(daemon, "/services/dns/all")]
        (line,) = events(daemon, TAKEN_OVER)
        assert (line["pid"], line["forwards"]) == (new, 3)
        assert stat.S_ISSOCK(unix.stat().st_mode)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(unix))
        # What the API opened can be closed, and its file goes.
        for protocol, local in opened:
            assert (
                daemon.post("/services/forwarder/unexpose", {"local": local, "protocol": protocol})[0] == 200
            )
        assert not unix.exists()
        assert not new_shared_memory(before)
    assert not pid_file.exists()
    assert not daemon.socket.exists()
    assert not Path(f"/proc/{new}").exists()


def test_sigusr2_restarts_and_later_signals_reach_the_successor(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    daemon.start()
    try:
        daemon.wait_until_ready()
        daemon.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: events(daemon, TAKEN_OVER), "the successor", 40)
        (successor,) = {line["pid"] for line in events(daemon, TAKEN_OVER)}
        await_end(daemon.process.pid)
        daemon.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: [line["pid"] for line in events(daemon, "log reopened")] == [successor], "a line")
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(20) == 0
        assert not Path(f"/proc/{successor}").exists()
        assert not daemon.socket.exists()
    finally:
        daemon.kill()


def test_who_waits_for_the_daemon_gets_its_signal(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    daemon.start()
    try:
        daemon.wait_until_ready()
        restart(daemon)
        new = restart(daemon)
        os.kill(new, signal.SIGKILL)
        assert daemon.process.wait(20) == -signal.SIGKILL
    finally:
        daemon.kill()


def test_the_daemon_ends_with_the_process_that_was_started(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    daemon.start()
    try:
        daemon.wait_until_ready()
        first = restart(daemon)
        await_end(daemon.process.pid)
        new = restart(daemon)
        await_end(first)
        daemon.process.kill()
        wait_for(lambda: not Path(f"/proc/{new}").exists(), "the end", 20)
        assert not daemon.socket.exists()
    finally:
        daemon.kill()


def test_a_changed_file_takes_effect(tmp_path: Path) -> None:
    config, other = tmp_path / "config.yaml", tmp_path / "other.sock"
    changed, gone, stays = "127.0.0.1:34081", "127.0.0.1:34082", "127.0.0.1:34083"
    config.write_text(f'stack: {{forwards: {{"{changed}": "{GUEST}", "{gone}": "{GUEST}"}}}}')
    with LoneDaemon(tmp_path, "-config", str(config)) as daemon:
        expose(daemon, stays)
        config.write_text(
            f'stack: {{mtu: 1400, forwards: {{"{changed}": "192.168.127.2:81"}}}}\n'
            f"interfaces: {{qemu: unix://{other}}}\n"
        )
        restart(daemon)
        found = {each["local"]: each["remote"] for each in get(daemon, "/services/forwarder/all")}
        assert found == {changed: "192.168.127.2:81", stays: GUEST}
        assert get(daemon, "/status")["network"]["mtu"] == 1400
        assert other.exists()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 34082))
        # A socket that the file does not name any more is closed, with its file.
        config.write_text("{}")
        restart(daemon)
        wait_for(lambda: not other.exists(), "the file is gone", 10)
        assert set(forwards(daemon)) == {("tcp", stays)}


def test_a_broken_file_leaves_the_old_daemon_as_it_was(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("{}")
    with LoneDaemon(tmp_path, "-config", str(config)) as daemon:
        expose(daemon, "127.0.0.1:34084")
        # A forward whose address is in use is found only after the old workers pause.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            in_use = f"127.0.0.1:{taken.getsockname()[1]}"
            for text, words in (
                ("limits: {max-tcp-flows: many}", "limits.max-tcp-flows"),
                (f'stack: {{forwards: {{"{in_use}": "{GUEST}"}}}}', f"listen tcp {in_use}: bind: address"),
                (f"interfaces: {{qemu: unix://{tmp_path}/nowhere/q.sock}}", "no such file or directory"),
            ):
                config.write_text(text)
                before = len(events(daemon, REFUSED))
                done = command(daemon)
                assert done.returncode == 1
                assert words in done.stderr
                (line,) = events(daemon, REFUSED)[before:]
                assert line["level"] == "error"
                assert words in line["error"]
                assert line["pid"] == daemon.process.pid
                assert daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
        assert forwards(daemon) == {("tcp", "127.0.0.1:34084")}
        assert expose(daemon, "127.0.0.1:34085") == "127.0.0.1:34085"
        assert events(daemon, "worker died") == []
        wait_for(lambda: len(family(daemon.process.pid)) == 8, "no process of the new version is left", 10)
        config.write_text("{}")
        restart(daemon)
        assert len(forwards(daemon)) == 2


def test_a_policy_of_the_api_that_cannot_be_read_any_more_is_not_dropped(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("example.com\n")
    wanted = {"default": "deny", "rules": [{"action": "allow", "name-files": [str(names)]}]}
    with LoneDaemon(tmp_path) as daemon:
        assert put(daemon, "/policy", wanted)[0] == 200
        names.unlink()
        status, answer = daemon.post("/restart", {})
        assert status == 500
        assert "the policy of the API: egress-policy.rules[0].name-files" in answer.decode()
        assert get(daemon, "/policy") == wanted
        names.write_text("example.com\n")
        restart(daemon)
        assert get(daemon, "/policy") == wanted
        assert events(daemon, "not taken over") == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import a_module_that_does_not_exist", "has ended with status 1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "has ended with signal 11"),
        ("raise SystemExit(0)", "has ended with status 0"),
    ],
)
def test_a_new_version_that_does_not_start_changes_nothing(tmp_path: Path, body: str, words: str) -> None:
    script = tmp_path / "program.py"
    script.write_text("import sys\nfrom pipeline.cli import main\nsys.exit(main())\n")
    daemon = LoneDaemon(tmp_path)
    daemon.command = [sys.executable, str(script), *daemon.command[3:]]
    with daemon:
        script.write_text(body)
        status, answer = daemon.post("/restart", {})
        assert status == 500
        assert words in answer.decode()
        assert daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


def test_a_worker_that_dies_meanwhile_ends_the_restart_and_is_replaced(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    start = "import sys\nfrom pipeline.cli import main\nsys.exit(main())\n"
    script.write_text(start)
    daemon = LoneDaemon(tmp_path)
    daemon.command = [sys.executable, str(script), *daemon.command[3:]]
    with daemon:
        # The new version is slow to say that it runs, and the old workers pause meanwhile.
        script.write_text(
            "import time\nfrom pipeline.daemon.predecessor import Predecessor\n"
            "before = Predecessor.running\n"
            "Predecessor.running = lambda self: (time.sleep(3), before(self))\n" + start
        )
        resolver = next(
            row["pid"] for row in get(daemon, "/status")["workers"] if row["worker"] == "resolver"
        )
        daemon.process.send_signal(signal.SIGUSR2)
        wait_for(
            lambda: len(events(daemon, "gvtap-pipeline version")) or _starts(daemon), "the new version", 30
        )
        time.sleep(1.5)
        os.kill(resolver, signal.SIGKILL)
        wait_for(lambda: events(daemon, "worker replaced"), "a successor", 20)
        (line,) = events(daemon, REFUSED)
        assert "a worker has died" in line["error"]
        assert daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


def test_the_log_keeps_its_lines(tmp_path: Path) -> None:
    log, config = tmp_path / "log", tmp_path / "config.yaml"
    config.write_text("{}")
    with LoneDaemon(tmp_path, "-log-file", str(log), "-config", str(config)) as daemon:
        wait_for(lambda: "waiting for clients..." in log.read_text(), "the first lines", 10)
        before = log.read_text()
        config.write_text("limits: {max-tcp-flows: many}")
        assert daemon.post("/restart", {})[0] == 500
        wait_for(lambda: REFUSED in log.read_text(), "the reason", 10)
        assert log.read_text().startswith(before)
        config.write_text("{}")
        restart(daemon)
        assert log.read_text().startswith(before)


def test_a_log_that_is_rotated_during_a_restart_is_rotated_for_the_successor_too(tmp_path: Path) -> None:
    script, log, old = tmp_path / "program.py", tmp_path / "log", tmp_path / "log.1"
    start = "import sys\nfrom pipeline.cli import main\nsys.exit(main())\n"
    script.write_text(start)
    daemon = LoneDaemon(tmp_path, "-log-file", str(log))
    daemon.command = [sys.executable, str(script), *daemon.command[3:]]
    with daemon:
        # The new version has opened the log, and waits for the file before it is ready.
        script.write_text(
            "import os, time\nfrom pipeline.daemon.predecessor import Predecessor\n"
            "before = Predecessor.ready\n"
            "def ready(self, version):\n"
            f"    while not os.path.exists({str(tmp_path / 'go')!r}):\n        time.sleep(0.05)\n"
            "    before(self, version)\n"
            "Predecessor.ready = ready\n" + start
        )
        daemon.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: log.read_text().count("gvtap-pipeline version") > 1, "the new version", 30)
        log.rename(old)
        daemon.process.send_signal(signal.SIGUSR1)
        wait_for(log.exists, "the new log", 10)
        (tmp_path / "go").touch()
        wait_for(lambda: TAKEN_OVER in log.read_text() + old.read_text(), "the successor", 30)
        (pid,) = {line["pid"] for line in _lines(log, old) if line["event"] == TAKEN_OVER}
        processes = [pid, *family(pid)]
        assert len(processes) > 2

        def moved() -> bool:
            return all(
                str(log) in _open_files(each) and str(old) not in _open_files(each) for each in processes
            )

        wait_for(moved, "all processes have the new log", 10)


def _lines(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def _open_files(pid: int) -> set[str]:
    return {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}


def _starts(daemon: LoneDaemon) -> bool:
    return daemon.errors().count('"kind": "version"') > 1


def test_a_manager_of_services_hears_of_the_new_main_process(tmp_path: Path) -> None:
    path, config = tmp_path / "notify", tmp_path / "config.yaml"
    config.write_text("{}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(40)
        env = {**os.environ, "NOTIFY_SOCKET": str(path)}
        daemon = LoneDaemon(tmp_path, "-config", str(config), env=env)
        daemon.start()
        try:
            assert manager.recv(100) == b"READY=1"
            config.write_text("limits: {max-tcp-flows: many}")
            assert daemon.post("/restart", {})[0] == 500
            assert manager.recv(100).startswith(b"RELOADING=1\n")
            assert manager.recv(100) == b"READY=1"
            config.write_text("{}")
            new = restart(daemon)
            assert manager.recv(100).startswith(b"RELOADING=1\n")
            assert manager.recv(100) == f"MAINPID={new}".encode()
            assert manager.recv(100) == b"READY=1"
            # Nobody stays behind: the manager knows the new process.
            assert daemon.process.wait(20) == 0
            assert daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
            os.kill(new, signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            wait_for(lambda: not daemon.socket.exists(), "the end", 10)
        finally:
            daemon.kill()


def test_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    many_restarts(tmp_path, 3)


@pytest.mark.stress
def test_many_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    many_restarts(tmp_path, 20)


def many_restarts(directory: Path, count: int) -> None:
    before = shared_memory()
    with LoneDaemon(directory, "-pid-file", str(directory / "pid")) as daemon:
        for protocol, local in (
            ("tcp", "127.0.0.1:0"),
            ("udp", "127.0.0.1:0"),
            ("unix", str(directory / "f")),
        ):
            expose(daemon, local, protocol)
        opened = forwards(daemon)
        old = daemon.process.pid
        found = []
        for _ in range(count):
            new = restart(daemon)
            await_end(old)
            assert daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
            old = new
            processes = family(daemon.process.pid)
            found.append((len(processes), [descriptors(pid) for pid in processes]))
            assert forwards(daemon) == opened
        # The first one is the minder, and the daemon's workers follow.
        assert [entry[0] for entry in found] == [found[0][0]] * count
        assert found[-1][1] == found[1][1]
    assert not new_shared_memory(before)


def test_three_hundred_forwards_are_more_than_one_message_carries(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path) as daemon:
        for number in range(300):
            expose(daemon, str(tmp_path / f"f{number}"), "unix")
        restart(daemon)
        assert len(forwards(daemon)) == 300
        assert events(daemon, "not taken over") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_daemon_that_is_not_root_any_more_keeps_what_root_opened(tmp_path: Path) -> None:
    """A port below 1024, and a pid file in a directory that only root may enter."""
    skip_in_private_directory()
    pid_file = tmp_path / "pid"
    port = next(port for port in range(1000, 0, -1) if _is_free(port))
    url = f"tcp://127.0.0.1:{port}"
    with LoneDaemon(tmp_path, "-user", "nobody", "-pid-file", str(pid_file), "-services", url) as daemon:
        for _ in range(2):
            new = restart(daemon)
            assert pid_file.read_text() == str(new)
            status = Path(f"/proc/{new}/status").read_text()
            (uids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
            assert set(uids) == {"65534"}
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                client.sendall(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.0 200")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_capture_goes_on_in_the_same_file(tmp_path: Path) -> None:
    capture = tmp_path / "all.pcap"
    with LoneDaemon(tmp_path, "-pcap", str(capture)) as daemon:
        before = capture.stat()
        restart(daemon)
        assert (capture.stat().st_ino, capture.stat().st_size) == (before.st_ino, before.st_size)


def test_leases_are_written_by_the_successor(tmp_path: Path) -> None:
    state = tmp_path / "leases.json"
    with LoneDaemon(tmp_path, "-state-file", str(state)) as daemon:
        restart(daemon)
        wait_for(state.exists, "the file", 10)
        before = state.stat().st_mtime_ns
        restart(daemon)
        wait_for(lambda: state.stat().st_mtime_ns != before, "the file of the successor", 10)


def test_a_guest_on_standard_input_and_output_goes_on(tmp_path: Path) -> None:
    mac, own, gateway = bytes.fromhex("5a94ef000009"), *map(ip.parse_ipv4, ("192.168.127.9", "192.168.127.1"))
    ask = ethernet.header(ethernet.BROADCAST, mac, ethernet.TYPE_ARP)
    ask += arp.build(arp.REQUEST, mac, own, bytes(6), gateway)
    data = len(ask).to_bytes(2, "little") + ask
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    daemon = LoneDaemon(tmp_path, "-listen-stdio", "accept", stdin=theirs, stdout=theirs)
    with daemon, ours, ours.makefile("rb") as stream:
        theirs.close()
        for cut in (len(data), 1, 30):
            ours.sendall(data[:cut])
            restart(daemon)
            ours.sendall(data[cut:])
            assert _answered(stream, mac)


def _answered(stream: BinaryIO, mac: bytes) -> bool:
    """Wait for the gateway's answer to an ARP request."""
    while head := stream.read(2):
        frame = stream.read(int.from_bytes(head, "little"))
        if frame[:6] == mac and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
            return True
    return False
