"""perf.families: which peers are measured, sizes of segments, and the peers that have no program."""

import argparse
import subprocess
import sys
from collections.abc import Iterator

import pytest

from perf import families, kernels, namespaces, options, report
from perf.families import IPV4, IPV6
from perf.namespaces import Namespace, World
from perf.peers import Endpoint, PeerError
from tests.support import netns

MTU = 1500
ETHERNET_LEN = 14
SENT = 2_000_000

needs_root = pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "available")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add(parser, seconds=1, repeat=1)
    return parser.parse_args(list(words))


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("qemu", ["pipeline", "kernels"]),
        ("agent", ["pipeline-agent", "kernels-offload"]),
        ("both", ["pipeline", "pipeline-agent", "kernels", "kernels-offload"]),
    ],
)
def test_each_link_has_the_kernels_that_are_most_like_it(link: str, expected: list[str]) -> None:
    assert options.peers(parsed("--peers", "pipeline,kernels", "--link", link)) == expected


def test_kernels_are_measured_only_if_they_are_named() -> None:
    assert not set(kernels.NAMES) & set(options.peers(parsed()))


def test_only_rows_of_this_program_have_an_aim() -> None:
    found = [
        report.Figure(f"{peer}: tcp up", family, "Gbit/s", (value,) * 6)
        for peer in ("pipeline", "pipeline-agent", *kernels.NAMES)
        for family, value in ((IPV4, 1.0), (IPV6, 0.9))
    ]
    rows = [line.strip("|").split("|") for line in families.table(found).splitlines()[2:]]
    verdicts = {row[0].strip(): row[-1].strip() for row in rows}
    assert verdicts.pop("pipeline: tcp up") == "0.95: MISSED"
    assert verdicts.pop("pipeline-agent: tcp up") == "0.95: MISSED"
    assert verdicts == {f"{name}: tcp up": "" for name in kernels.NAMES}


@pytest.fixture
def place() -> Iterator[World]:
    with namespaces.world() as made:
        yield made


_SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 0), family=family) as listener:
    print(listener.getsockname()[1], flush=True)
    with listener.accept()[0] as link:
        total = 0
        while data := link.recv(1 << 20):
            total += len(data)
        print(total, flush=True)
"""

_CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as link:
    link.sendall(bytes(int(sys.argv[3])))
    print(link.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""


def send(where: World, host_addr: str, bind: str) -> tuple[int, int]:
    """Send SENT bytes to the host. Returns how many have arrived, and the data of a full segment."""
    server = where.host.spawn([sys.executable, "-c", _SERVER, bind], subprocess.PIPE)
    try:
        out = server.popen.stdout
        assert out is not None
        port = out.readline().decode().strip()
        segment = int(where.guest.run(sys.executable, "-c", _CLIENT, host_addr, port, str(SENT)))
        return int(out.readline()), segment
    finally:
        server.stop()


def mean_length(namespace: Namespace) -> float:
    """The mean length of the packets that eth0 has sent."""
    for line in namespace.run("cat", "/proc/net/dev").splitlines():
        name, colon, rest = line.partition(":")
        if colon and name.strip() == "eth0":
            fields = rest.split()
            return int(fields[8]) / int(fields[9])
    raise AssertionError("there is no eth0")


def ends(endpoint: Endpoint) -> dict[str, tuple[str, str]]:
    return {
        IPV4: (endpoint.host_addr, endpoint.bind),
        IPV6: (endpoint.host_addr6, endpoint.bind6),
    }


@pytest.mark.e2e
@needs_root
@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_without_offload_the_guests_kernel_sends_frames_of_the_mtu(place: World, family: str) -> None:
    with kernels.running(kernels.KERNELS, place, MTU, ipv6=True) as endpoint:
        assert send(place, *ends(endpoint)[family])[0] == SENT
        assert mean_length(place.guest) <= MTU + ETHERNET_LEN


@pytest.mark.e2e
@needs_root
@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_with_offload_packets_cross_in_one_piece(place: World, family: str) -> None:
    with kernels.running(kernels.OFFLOAD, place, MTU, ipv6=True) as endpoint:
        assert send(place, *ends(endpoint)[family])[0] == SENT
        assert mean_length(place.guest) > 2 * MTU


@pytest.mark.e2e
@needs_root
@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_over_loopback_the_guest_has_no_interface(place: World, family: str) -> None:
    with kernels.running(kernels.ALONE, place, MTU, ipv6=True) as endpoint:
        assert send(kernels.where(kernels.ALONE, place), *ends(endpoint)[family])[0] == SENT
        assert "eth0" not in place.guest.run("ip", "-o", "link")


@pytest.mark.e2e
@needs_root
def test_kernels_that_cannot_be_joined_are_a_peer_that_fails(place: World) -> None:
    with (
        pytest.raises(PeerError, match="kernels: ip link add"),
        kernels.running(kernels.KERNELS, place, 1),
    ):
        pytest.fail("no veth has an MTU of 1")


@pytest.mark.e2e
@needs_root
def test_a_segment_that_no_route_can_have_is_an_error_of_the_measurement(place: World) -> None:
    with (
        kernels.running(kernels.OFFLOAD, place, MTU, ipv6=True) as endpoint,
        pytest.raises(report.MeasurementError, match="over IPv4: ip route"),
    ):
        families.set_segment(place.guest, endpoint, -1000)


@pytest.mark.e2e
@needs_root
def test_segments_have_the_same_size_over_both_families_if_that_is_wanted(place: World) -> None:
    with kernels.running(kernels.OFFLOAD, place, MTU, ipv6=True) as endpoint:
        both = ends(endpoint)
        assert {family: send(place, *end)[1] for family, end in both.items()} == {IPV4: 1448, IPV6: 1428}
        families.set_segment(place.guest, endpoint, 1408)
        assert {family: send(place, *end)[1] for family, end in both.items()} == {IPV4: 1408, IPV6: 1408}


@pytest.mark.e2e
@needs_root
def test_each_kind_of_kernels_has_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--peers",
        ",".join(kernels.NAMES),
        "--seconds",
        "0.2",
        "--repeat",
        "1",
        "--kinds",
        "tcp,udp,crr",
    ]
    assert families.main([*words, "--segment", "1408", "--no-write"]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 5 * len(kernels.NAMES)
    assert {row.partition(":")[0] for row in rows} == set(kernels.NAMES)
