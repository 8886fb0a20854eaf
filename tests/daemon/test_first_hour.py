"""Mistakes of the first hour: the daemon says in words what went wrong, and what to do instead."""

import json
import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for


def lines(daemon: LoneDaemon, level: str = "") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in daemon.errors().splitlines()]
    return [line for line in found if level in ("", line["level"])]


def refused(tmp_path: Path, *flags: str, **options: Any) -> str:
    """The critical line of a start that must fail."""
    daemon = LoneDaemon(tmp_path, *flags, **options)
    daemon.refusal()
    (line,) = lines(daemon, "critical")
    return str(line["event"])


def without(flags: list[str], name: str) -> list[str]:
    at = flags.index(name)
    return flags[:at] + flags[at + 2 :]


# --- guests and clients on the wrong socket -------------------------------------------------------


def test_qemu_on_the_socket_of_the_api_is_told_its_place(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path) as daemon:
        frame = b"\xff" * 6 + bytes(54)
        answer = daemon.ask(len(frame).to_bytes(4, "big") + frame)
        assert b"400 Bad Request" in answer
        wait_for(lambda: lines(daemon, "warning"), "the warning", 5)
        (line,) = lines(daemon, "warning")
        assert line["event"] == "bad request"
        assert "-listen-qemu" in line["error"]


def test_the_agent_on_the_socket_of_qemu_is_told_its_place(tmp_path: Path) -> None:
    path = tmp_path / "qemu.sock"
    with LoneDaemon(tmp_path, "-listen-qemu", f"unix://{path}") as daemon:
        wait_for(path.exists, "the socket", 10)
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(10)
            agent.connect(str(path))
            agent.sendall(b"POST /connect HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n")
            assert agent.recv(1) == b""
        wait_for(lambda: '"guest-gone"' in daemon.errors(), "the end of the link", 5)
        (line,) = [line for line in lines(daemon, "info") if line.get("kind") == "guest-gone"]
        assert "invalid packet size: 1347375956" in line["error"]
        assert '("POST": an HTTP request, whose place is -listen)' in line["error"]


def test_a_start_without_links_warns(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    daemon.command = without(daemon.command, "-listen")
    daemon.start()
    try:
        wait_for(lambda: "waiting for clients..." in daemon.errors(), "the start", 20)
        (line,) = lines(daemon, "warning")
        assert line["event"] == "no guest can attach: start has neither -listen nor another flag for links"
        daemon.stop()
    finally:
        daemon.kill()


# --- addresses and ports ---------------------------------------------------------------------------


def test_a_busy_ssh_port_names_its_flag(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        text = refused(tmp_path, "-ssh-port", str(port))
    assert text.startswith(f"listen tcp 127.0.0.1:{port}: bind: address already in use (-ssh-port sets ")


def test_an_ipv6_address_without_brackets_is_shown_with_them(tmp_path: Path) -> None:
    assert refused(tmp_path, "-listen", "tcp://::1:7777") == (
        "cannot listen: tcp://::1:7777: an IPv6 address stands in brackets: tcp://[::1]:7777"
    )


def test_the_port_that_the_system_chose_is_reported_and_works(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path, "-listen", "tcp://127.0.0.1:0", "-services", "tcp://127.0.0.1:0") as daemon:
        wait_for(lambda: "waiting for clients..." in daemon.errors(), "the start", 20)
        found = re.findall(r'(?i)listening tcp://127\.0\.0\.1:(\d+)"', daemon.errors())
        assert len(found) == 2
        for port in found:
            socket.create_connection(("127.0.0.1", int(port)), 5).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_a_low_port_without_the_right_names_the_right() -> None:
    """The interpreter may be where only root can read. So the right goes when everything is loaded."""
    code = (
        "import os; from pipeline.links import addresses\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: addresses.listen('tcp://127.0.0.1:443')\n"
        "except addresses.AddressError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "cannot listen: listen tcp 127.0.0.1:443: bind: permission denied (a port below 1024 needs "
        "CAP_NET_BIND_SERVICE, or sysctl net.ipv4.ip_unprivileged_port_start=443)\n"
    )


# --- files and descriptors ---------------------------------------------------------------------------


def test_an_outbound_address_of_another_host_stops_the_start(tmp_path: Path) -> None:
    words = "cannot assign requested address (allowed: an address of this host)"
    said = refused(tmp_path, "-outbound-address", "192.0.2.1")
    assert said == f"outbound-address 192.0.2.1: {words}"


def test_an_unknown_outbound_interface_stops_the_start(tmp_path: Path) -> None:
    said = refused(tmp_path, "-outbound-interface", "no-such0")
    assert said.startswith("outbound-interface no-such0: there is no such interface (allowed: ")


@pytest.mark.parametrize(
    ("name", "words"), [("no/such/leases", "No such file or directory"), ("", "Is a directory")]
)
def test_a_state_file_that_cannot_be_written_stops_the_start(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / name
    assert refused(tmp_path, "-state-file", str(path)) == f"cannot write state file {path}: {words}"


def test_the_check_of_the_state_file_leaves_nothing(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path, "-state-file", str(tmp_path / "leases")):
        assert not list(tmp_path.glob("leases*"))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("egres-policy: {default: deny}", "egres-policy, did you mean egress-policy?"),
        ("egress-policy: {defaults: deny}", "egress-policy.defaults, did you mean default?"),
        (
            "egress-policy: {rules: [{action: deny, network: [10.0.0.0/8]}]}",
            "egress-policy.rules[0].network, did you mean networks?",
        ),
        ("guest-apis: {enabled: false}", "guest-apis, did you mean guest-api?"),
        ("api-token-fil: /t", "api-token-fil, did you mean api-token-file?"),
    ],
)
def test_a_mistyped_key_of_a_restriction_stops_the_start(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert refused(tmp_path, "-config", str(path)) == (
        f"failed to parse configuration: yaml: line 1: unknown key {key} (a restriction would be missing)"
    )


def test_other_mistyped_keys_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("lisen: []\n")
    with LoneDaemon(tmp_path, "-config", str(path)) as daemon:
        events = [line["event"] for line in lines(daemon, "warning")]
        assert any(event.endswith("unknown key lisen, did you mean listen?") for event in events)


def test_too_few_descriptors_name_the_limit(tmp_path: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))

    text = refused(tmp_path, preexec_fn=few)
    assert text.startswith("[Errno 24] Too many open files")
    assert "(the limit of this process is 24 descriptors, and it needs" in text


def test_closed_standard_descriptors_are_not_given_to_sockets(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "api.sock"
    command = [sys.executable, "-m", "pipeline.cli", "start", "-ssh-port", "-1", "-slots", "64"]
    command += ["-listen", f"unix://{path}", "-log-file", str(log)]
    daemon = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command])
    try:
        wait_for(path.exists, "the socket", 20)
        links = [os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in range(3)]
        assert links == [os.devnull] * 3
        daemon.terminate()
        assert daemon.wait(10) == 0
    finally:
        daemon.kill()
        daemon.wait()


def test_frames_on_closed_standard_descriptors_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "pipeline.cli", "start", "-ssh-port", "-1", "-slots", "64"]
    command += ["-listen-stdio", "accept", "-log-file", str(log)]
    argv = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *command]
    done = subprocess.run(argv, stderr=subprocess.PIPE, timeout=20)
    assert done.returncode == 1
    text = done.stderr.decode() + log.read_text()
    assert "standard input is neither pipe nor socket" in text
