"""Captures of a running daemon: with a filter, of drops, for readers that stop, and for Wireshark."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.agent import GUEST_MAC, Agent
from tests.support.daemon import Daemon
from tests.support.live_capture import FROM_GUEST, TO_GUEST, Capture, read
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, UDP_ECHO

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]

MIB = 1 << 20
OTHER_MAC = "5a:94:ef:e4:0c:99"
EXTCAP = Path(__file__).parents[2] / "contrib" / "wireshark" / "gvtap-extcap"
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")


def ports(data: bytes) -> set[int]:
    """Both ports of an IPv4 frame without options."""
    return {int.from_bytes(data[34:36], "big"), int.from_bytes(data[36:38], "big")}


def inject(agent: Agent, *frames: bytes) -> None:
    """Send frames from the guest's interface, as they are."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("tap0", 0))
            for frame in frames:
                raw.send(frame)

    agent.guest.call(send)


def test_a_filter_leaves_one_flow_and_the_frames_are_whole(daemon: Daemon, agent: Agent) -> None:
    path = daemon.network.directory / "flow.pcapng"
    with Capture(daemon, path, "-port", str(DATA), "-protocol", "tcp", "-guest", GUEST_MAC) as capture:
        assert agent.run("udp", INTERNET_ADDR, UDP_ECHO, 1000, 5)["received"] == 5
        assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
    found = capture.found()
    assert found.interfaces
    assert {packet.direction for packet in found.packets} == {FROM_GUEST, TO_GUEST}
    assert all(DATA in ports(packet.data) and packet.data[23] == 6 for packet in found.packets)
    assert max(packet.length for packet in found.packets) <= 1514
    missing = sum(packet.missing for packet in found.packets)
    for direction in (FROM_GUEST, TO_GUEST):
        sent = sum(packet.length - 54 for packet in found.packets if packet.direction == direction)
        assert missing or sent >= MIB


def test_each_guest_has_an_interface_and_a_snap_length_cuts_frames(
    daemon: Daemon, agent: Agent, network: Network
) -> None:
    path = network.directory / "two.pcapng"
    with (
        Agent(network.guests[1], daemon.socket, mac=OTHER_MAC) as other,
        Capture(daemon, path, "-protocol", "icmp", "-snaplen", "60") as capture,
    ):
        first = agent.guest.run("ip", "-4", "-br", "address", "show", "dev", "tap0").stdout.split()[2]
        other.guest.run("ping", "-n", "-c", "1", "-W", "2", "-s", "200", first.partition("/")[0])
        capture.wait_for_packets(4)
    found = capture.found()
    assert len(found.interfaces) == 2
    requests = [packet for packet in found.packets if packet.data[34] == 8]
    assert sorted(packet.direction for packet in requests) == [FROM_GUEST, TO_GUEST], "once on each link"
    assert len({packet.interface for packet in requests}) == 2
    assert {(len(packet.data), packet.length) for packet in requests} == {(60, 242)}


def test_a_capture_of_drops_has_the_frames_and_their_causes(daemon: Daemon, agent: Agent) -> None:
    mac, gateway = bytes.fromhex(GUEST_MAC.replace(":", "")), bytes.fromhex("5a94efe40cdd")
    packet = bytes.fromhex("4500002800010000400600000a0000010a000002") + bytes(20)
    wrong_sum = gateway + mac + b"\x08\x00" + packet
    as_gateway = b"\xff" * 6 + gateway + b"\x08\x00" + packet
    unknown = gateway + mac + b"\x88\xb5" + bytes(46)
    path = daemon.network.directory / "drops.pcapng"
    with Capture(daemon, path, "-drops") as capture:
        inject(agent, wrong_sum, as_gateway, unknown)
        assert agent.run("udp", INTERNET_ADDR, UDP_ECHO, 100, 3)["received"] == 3
        wait_for(lambda: path.exists() and len(capture.found().packets) >= 3, "three drops", 10)
    causes = {
        packet.data[:14]: packet.comment
        for packet in capture.found().packets
        if packet.data[:14] in (wrong_sum[:14], as_gateway[:14], unknown[:14])
    }
    assert causes == {
        wrong_sum[:14]: "dropped: ipv4_packet_dropped_bad_checksum",
        as_gateway[:14]: "dropped: switch_frame_dropped_gateway_source",
        unknown[:14]: "dropped: demux_frame_dropped_unknown_ethertype",
    }
    assert not any(
        packet.data[23:24] == b"\x11" and UDP_ECHO in ports(packet.data) for packet in capture.found().packets
    )


def test_a_reader_that_does_not_read_loses_frames_and_guests_go_on(daemon: Daemon, agent: Agent) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(str(daemon.socket))
    sock.sendall(b"GET /capture HTTP/1.1\r\nHost: a\r\n\r\n")
    assert sock.recv(15) == b"HTTP/1.1 200 OK"
    assert agent.run("transfer", INTERNET_ADDR, DATA, 8 * MIB, 8 * MIB)["errors"] == []
    sock.close()
    wait_for(lambda: daemon.events("capture ended")[-1]["missing"] > 0, "frames are missing", 10)


def test_the_command_ends_when_its_reader_leaves_while_no_frame_passes(daemon: Daemon, agent: Agent) -> None:
    before = len(daemon.events("capture started"))
    argv = [*daemon.command, "capture", "-api", f"unix://{daemon.socket}", "-port", "1"]
    process = daemon.namespace.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: len(daemon.events("capture started")) > before, "the capture runs", 10)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(10) == 0
    assert process.stderr.read() == b""


def test_the_fifth_capture_is_refused_and_a_place_comes_free(daemon: Daemon, agent: Agent) -> None:
    directory = daemon.network.directory
    begun = [Capture(daemon, directory / f"many{number}.pcapng", "-port", "1") for number in range(4)]
    try:
        for capture in begun:
            capture.__enter__()
        argv = [*daemon.command, "capture", "-api", f"unix://{daemon.socket}", "-w", str(directory / "fifth")]
        done = daemon.namespace.run(*argv, check=False)
        assert done.returncode == 1
        assert "4 captures are running" in done.stderr
        assert not (directory / "fifth").exists()
    finally:
        for capture in begun:
            capture.stop()
    with Capture(daemon, directory / "again.pcapng", "-port", "1") as again:
        assert again.process.poll() is None


def test_a_ring_keeps_its_last_files_and_each_can_be_read(daemon: Daemon, agent: Agent) -> None:
    path = daemon.network.directory / "ring.pcapng"
    with Capture(daemon, path, "-ring-size", "100k", "-ring-files", "3"):
        assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
    names = sorted(path.parent.glob("ring.*.pcapng"))
    assert len(names) == 3
    for name in names:
        assert 0 < name.stat().st_size <= 110_000
        assert oct(name.stat().st_mode & 0o777) == "0o600"
        assert read(name.read_bytes()).packets


def test_a_wrong_filter_is_named(daemon: Daemon, agent: Agent) -> None:
    argv = [*daemon.command, "capture", "-api", f"unix://{daemon.socket}", "-w", "/dev/null", "-port", "http"]
    done = daemon.namespace.run(*argv, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "gvtap-pipeline capture: port 'http' is wrong (allowed: 1 to 65535, or a range low-high)\n"
    )


@needs_tshark
def test_tshark_reads_a_pipe_and_finds_right_checksums(daemon: Daemon, agent: Agent) -> None:
    path = daemon.network.directory / "checked.pcapng"
    with Capture(daemon, path, "-host", INTERNET_ADDR):
        assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
    argv = ["tshark", "-r", str(path), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    wrong = 'tcp.checksum.status == "Bad" or ip.checksum.status == "Bad"'
    done = subprocess.run([*argv, "-Y", wrong], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def extcap_folder() -> str:
    """Where tshark looks for extcap programs of all users."""
    out = subprocess.run(["tshark", "-G", "folders"], capture_output=True, text=True, timeout=30).stdout
    folders = [line.split("\t")[-1] for line in out.splitlines() if "extcap path" in line.lower()]
    return next(folder for folder in folders if folder.startswith("/usr/"))


@needs_tshark
def test_wireshark_lists_the_guests_and_captures_one(daemon: Daemon, agent: Agent, tmp_path: Path) -> None:
    folder = tmp_path / "extcap"
    folder.mkdir()
    command = tmp_path / "gvtap-pipeline"
    command.write_text(f'#!/bin/sh\nexec {" ".join(daemon.command)} "$@"\n')
    command.chmod(0o755)
    shutil.copy(EXTCAP, folder)
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "GVTAP_API": f"unix://{daemon.socket}",
        "GVTAP_PIPELINE": str(command),
    }
    # Not every version looks at the folder of a user. The mount is seen in this process alone.
    mounted = ["sh", "-c", f'mount --bind {folder} {extcap_folder()} && exec tshark "$@"', "tshark"]
    listed = daemon.namespace.run(*mounted, "-D", env=env).stdout
    name = f"gvtap-{GUEST_MAC.replace(':', '')}"
    assert name in listed, listed
    assert "gvtap: guest 192.168.127.2" in listed
    before = len(daemon.events("capture started"))
    tshark = daemon.namespace.popen(
        [*mounted, "-i", name, "-c", "4", "-T", "fields", "-e", "icmp.type", "-Y", "icmp"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: len(daemon.events("capture started")) > before, "tshark captures", 20, 0.05)
    agent.guest.run("ping", "-n", "-c", "3", "-W", "2", "192.168.127.1")
    out, errors = tshark.communicate(timeout=30)
    assert {"8", "0"} <= set(out.split()), errors
