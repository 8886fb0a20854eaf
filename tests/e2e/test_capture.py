"""-pcap, read by tshark: frames as on a wire whatever the guest offloads, and while the daemon runs."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import foreign
from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark"),
]

MIB = 1 << 20
MAX_FRAME = 1514
CHECKS = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")


def shown(path: Path, only: str, *fields: str) -> list[tuple[str, ...]]:
    """The fields of each packet that the display filter lets through."""
    argv = ["tshark", "-r", str(path), *CHECKS, "-Y", only, "-T", "fields"]
    for field in fields:
        argv += ["-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def check_transfer(path: Path, mib: int) -> None:
    """Every frame fits a wire, every checksum is right, and both directions of a transfer are whole."""
    sizes = [int(size) for (size,) in shown(path, "frame", "frame.len")]
    assert max(sizes) == MAX_FRAME
    wrong = 'tcp.checksum.status == "Bad" or ip.checksum.status == "Bad" or udp.checksum.status == "Bad"'
    assert shown(path, wrong, "frame.number") == []
    # tshark takes the payload of some ports for a protocol that it is not.
    ours = f"tcp.port == {DATA} or udp.port == {UDP_ECHO}"
    assert shown(path, f"_ws.malformed and not ({ours})", "frame.number") == []
    for direction in ("ip.dst", "ip.src"):
        # Sequence numbers are relative: what was sent again counts once.
        ends = shown(
            path, f"tcp.port == {DATA} and {direction} == {INTERNET_ADDR} and tcp.len > 0", "tcp.nxtseq"
        )
        assert max(int(end) for (end,) in ends) > mib * MIB


def test_a_guest_that_offloads_looks_as_on_a_wire(network: Network, outside: Servers) -> None:
    path = network.directory / "offload.pcap"
    with Daemon(network, "-pcap", str(path)) as daemon, Agent(network.guest, daemon.socket) as agent:
        assert agent.run("transfer", INTERNET_ADDR, DATA, 2 * MIB, 2 * MIB)["errors"] == []
        assert agent.run("udp", INTERNET_ADDR, UDP_ECHO, 1000, 5)["received"] == 5
        assert daemon.events("guest offloads")
        # The daemon still runs: what has passed is in the file.
        check_transfer(path, 2)
    messages = {text for (text,) in shown(path, "dhcp", "dhcp.option.dhcp")}
    assert {"1", "2", "3", "5"} <= messages, "the guest's DHCP is there"
    assert shown(path, "arp", "arp.opcode")
    assert len(shown(path, f"udp.port == {UDP_ECHO}", "frame.number")) == 10


def test_a_guest_on_packets_is_captured_as_well(network: Network, outside: Servers) -> None:
    path, socket_path = network.directory / "bess.pcap", network.directory / "bess.sock"
    flags = ("-listen-qemu", "", "-listen-bess", f"unixpacket://{socket_path}", "-pcap", str(path))
    with Daemon(network, *flags), foreign.bess(network.guest, socket_path) as guest:
        assert guest.run("transfer", INTERNET_ADDR, DATA, 2 * MIB, 2 * MIB)["errors"] == []
    check_transfer(path, 2)


def test_the_capture_key_of_the_file_works_and_guests_see_each_others_frames_once_a_link(
    network: Network,
) -> None:
    path, config = network.directory / "two.pcap", network.directory / "two.yaml"
    config.write_text(json.dumps({"stack": {"capture-file": str(path)}}))
    with (
        Daemon(network, "-config", str(config)) as daemon,
        Agent(network.guest, daemon.socket),
        Agent(network.guests[1], daemon.socket, mac="5a:94:ef:e4:0c:99") as other,
    ):
        first = network.guest.run("ip", "-4", "-br", "address", "show", "dev", "tap0").stdout.split()[2]
        other.guest.run("ping", "-n", "-c", "1", "-W", "2", first.partition("/")[0])
    assert len(shown(path, "icmp.type == 8", "frame.number")) == 2
    assert len(shown(path, "icmp.type == 0", "frame.number")) == 2


def test_a_reader_that_leaves_ends_the_capture_and_not_the_network(
    network: Network, outside: Servers
) -> None:
    path = network.directory / "live.fifo"
    subprocess.run(["mkfifo", str(path)], check=True)
    reader = subprocess.Popen(["tshark", "-i", str(path), "-l", "-c", "3"], stdout=subprocess.PIPE, text=True)
    daemon = Daemon(network, "-pcap", str(path))
    daemon.expect_errors = True

    def starts() -> bool:
        try:
            daemon.start()
        except AssertionError as error:
            if "No such device" not in str(error):
                raise
            return False  # tshark has not opened its end yet
        return True

    wait_for(starts, "tshark reads", 30, 0.2)
    with Agent(network.guest, daemon.socket) as agent:
        out, _ = reader.communicate(timeout=30)
        assert "DHCP" in out
        assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
        assert [line["error"] for line in daemon.events("capture file ended")] == ["Broken pipe"]
    daemon.stop()


def test_a_capture_that_cannot_be_written_is_a_failure(network: Network) -> None:
    daemon = Daemon(network, "-pcap", "/nowhere/a.pcap", name="nowhere")
    with pytest.raises(AssertionError, match=r"cannot write capture /nowhere/a\.pcap: No such file"):
        daemon.start()
    assert daemon.process.wait(5) == 1
