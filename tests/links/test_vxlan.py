"""The link to other hosts: real sockets on loopback stand for the hosts."""

import socket
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engines.offload import tso
from pipeline.engines.vxlan.stays import Gateway
from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.links import vxlan_socket, vxlan_url
from pipeline.links.base import Buffer
from pipeline.links.listener import GatewayAddresses
from pipeline.links.vxlan import VxlanListener
from pipeline.links.vxlan_link import VxlanLink
from pipeline.links.vxlan_socket import VxlanSocket
from pipeline.wire import arp, ethernet, ip, offload, virtio_net, vxlan
from tests.support.frames import tcp_frame
from tests.support.offload import super_segment
from tests.support.owner import Owner

GATEWAY_MAC = ethernet.mac_parse("5a:94:ef:e4:0c:dd")
GATEWAY_ADDR = ip.parse_ipv4("192.168.127.1")
HERE, THERE, ELSEWHERE = (ethernet.mac_parse(f"5a:94:ef:e4:0d:0{number}") for number in (1, 2, 3))
VNI = 7
HEADER = vxlan.build(VNI)
ADDRESSES = GatewayAddresses(GATEWAY_MAC, frozenset((GATEWAY_ADDR,)), ip.parse_ipv4("192.168.127.255"))


def frame(dst: bytes = HERE, src: bytes = THERE, size: int = 60) -> bytes:
    return ethernet.header(dst, src, 0x1234) + bytes(number & 0xFF for number in range(size))


def question(tpa: int, src: bytes = THERE) -> bytes:
    body = arp.build(arp.REQUEST, src, ip.parse_ipv4("192.168.127.5"), ethernet.ZERO, tpa)
    return ethernet.header(ethernet.BROADCAST, src, ethernet.TYPE_ARP) + body


def framed(body: bytes, header: virtio_net.Header | None = None) -> bytes:
    """A frame as send() takes it."""
    vnet = virtio_net.build(header or virtio_net.Header(), offload.VNET_LEN)
    return offload.FRAMING.prefix.pack(len(vnet) + len(body)) + vnet + body


class Hosts:
    """A link, and the sockets of the hosts at its other end: 127.0.0.2, 127.0.0.3 and so on."""

    def __init__(self, count: int = 2, slots: int = 6) -> None:
        self.socks = []
        for number in range(count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((f"127.0.0.{number + 2}", 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            sock.setblocking(False)
            self.socks.append(sock)
        ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ours.bind(("127.0.0.1", 0))
        self.where = ours.getsockname()
        remotes = ",".join("{}:{}".format(*sock.getsockname()) for sock in self.socks)
        place = vxlan_url.parse(f"udp://127.0.0.1:{self.where[1]}?vni={VNI}&remote={remotes}")
        self.mtu = 1500
        self.slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(slots)]
        self.pool = Pool(0, slots)
        self.sock = VxlanSocket(ours)
        gateway = Gateway(*ADDRESSES)
        self.link = VxlanLink(self.sock, place, gateway, self.pool, self.slots, lambda _: self.mtu)

    def send(self, *datagrams: bytes, host: int = 0) -> None:
        for datagram in datagrams:
            self.socks[host].sendto(datagram, self.where)
        self.link.on_readable(True)

    def read(self) -> list[tuple[virtio_net.Header, bytes]]:
        """All frames that the link reads now, with their headers."""
        found = []
        while (burst := self.link.read_burst()) is not None:
            view = self.slots[burst[0]]
            for off, length in burst[1]:
                header = virtio_net.LONG.unpack_from(view, off - offload.VNET_LEN)
                found.append((virtio_net.Header(*header), bytes(view[off : off + length])))
        return found

    def frames(self) -> list[bytes]:
        return [each for _, each in self.read()]

    def received(self, host: int = 0) -> list[bytes]:
        """What a host has got, without the tunnel's headers."""
        found = []
        while True:
            try:
                datagram = self.socks[host].recv(1 << 16)
            except BlockingIOError:
                return found
            assert datagram[:8] == HEADER
            found.append(datagram[8:])

    def drops(self) -> dict[str, int]:
        return self.link.take_drops()

    def close(self) -> None:
        self.link.close()
        for sock in self.socks:
            sock.close()
        assert self.pool.refs_out == 0


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.close()


# --- from other hosts ------------------------------------------------------------------------


def test_frames_come_with_empty_headers(hosts: Hosts) -> None:
    sent = [frame(), frame(size=1000), question(ip.parse_ipv4("192.168.127.9"))]
    hosts.send(*(HEADER + each for each in sent))
    assert hosts.read() == [(virtio_net.Header(), each) for each in sent]
    assert hosts.drops() == {}


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (HEADER[:7], "vxlan_datagram_dropped_truncated"),
        (HEADER + bytes(13), "vxlan_datagram_dropped_truncated"),
        (b"", "vxlan_datagram_dropped_truncated"),
        (bytes(8) + frame(), "vxlan_datagram_dropped_no_vni"),
        (vxlan.build(8) + frame(), "vxlan_datagram_dropped_wrong_vni"),
        (HEADER + frame(dst=GATEWAY_MAC), "vxlan_frame_dropped_gateway"),
        (HEADER + frame(src=GATEWAY_MAC), "vxlan_frame_dropped_gateway"),
        (HEADER + question(GATEWAY_ADDR), "vxlan_frame_dropped_gateway"),
    ],
)
def test_what_may_not_pass_is_counted(hosts: Hosts, datagram: bytes, reason: str) -> None:
    hosts.send(datagram, HEADER + frame())
    assert hosts.frames() == [frame()]
    assert hosts.drops() == {reason: 1}


def test_reserved_bits_are_ignored(hosts: Hosts) -> None:
    hosts.send(bytes.fromhex("ffffffff000007ff") + frame())
    assert hosts.frames() == [frame()]


def test_hosts_are_known_by_their_address_alone(hosts: Hosts) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.9", 0))
        other.sendto(HEADER + frame(), hosts.where)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        other.sendto(HEADER + frame(size=70), hosts.where)
    hosts.link.on_readable(True)
    assert hosts.frames() == [frame(size=70)]
    assert hosts.drops() == {"vxlan_datagram_dropped_unknown_source": 1}


def train_of(frames: Sequence[bytes]) -> tuple[list[bytes], int]:
    return [HEADER + each for each in frames], len(HEADER) + len(frames[0])


def test_a_train_of_segments_comes_as_one_frame(hosts: Hosts) -> None:
    macs = ethernet.header(HERE, THERE, ethernet.TYPE_IPV4)
    frames = [tcp_frame(number * 1000, bytes(1000), eth_header=macs, ident=number) for number in range(40)]
    datagrams, size = train_of(frames)
    sender = VxlanSocket(hosts.socks[0].dup())
    assert sender.send(datagrams, size, False, hosts.where) == vxlan_socket.SENT
    hosts.link.on_readable(True)
    found = hosts.read()
    again = [bytes(cut) for header, each in found for cut in tso.cut(memoryview(each), header)]
    assert again == frames
    assert len(found) < 40, "the kernel handed over several datagrams at once"
    sender.close()


def test_datagrams_above_the_limit_wait_in_the_socket(hosts: Hosts) -> None:
    hosts.send(*[HEADER + frame(size=size) for size in (60, 61, 62)])
    hosts.link.frame_limit = 1
    lengths = []
    while (burst := hosts.link.read_burst()) is not None:
        lengths.append([length for _, length in burst[1]])
    assert [each for each in lengths if each] == [[74], [75], [76]]


def test_reading_stops_when_no_slot_is_free() -> None:
    hosts = Hosts(slots=1)
    taken = hosts.pool.alloc()
    hosts.send(HEADER + frame())
    assert hosts.link.read_burst() is None
    assert hosts.link.starved
    hosts.pool.unref(taken)
    assert hosts.frames() == [frame()]
    hosts.close()


@given(st.lists(st.binary(max_size=200) | st.binary(max_size=100).map(lambda b: HEADER + b), max_size=20))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_datagrams_pass_or_are_counted(hosts: Hosts, datagrams: list[bytes]) -> None:
    hosts.send(*datagrams)
    passed = len(hosts.frames())
    assert passed + sum(hosts.drops().values()) == len(datagrams)


# --- to other hosts ----------------------------------------------------------------------------


def test_frames_for_groups_and_unknown_stations_go_to_all_hosts(hosts: Hosts) -> None:
    sent = [question(ip.parse_ipv4("192.168.127.9"), HERE), frame(THERE, HERE)]
    assert hosts.link.send([framed(each) for each in sent])
    assert hosts.received(0) == hosts.received(1) == sent


def test_a_frame_goes_to_the_host_that_has_its_station(hosts: Hosts) -> None:
    hosts.send(HEADER + frame(HERE, THERE), host=0)
    hosts.send(HEADER + frame(HERE, ELSEWHERE), host=1)
    hosts.frames()
    hosts.link.send([framed(frame(THERE, HERE)), framed(frame(ELSEWHERE, HERE))])
    assert (hosts.received(0), hosts.received(1)) == ([frame(THERE, HERE)], [frame(ELSEWHERE, HERE)])
    hosts.send(HEADER + frame(HERE, THERE), host=1)
    hosts.frames()
    hosts.link.send([framed(frame(THERE, HERE))])
    assert (hosts.received(0), hosts.received(1)) == ([], [frame(THERE, HERE)])


def test_a_silent_station_is_forgotten(hosts: Hosts) -> None:
    hosts.send(HEADER + frame(HERE, THERE))
    hosts.frames()
    for _ in range(20):
        hosts.link.age()
    hosts.link.send([framed(frame(THERE, HERE))])
    assert hosts.received(0) == hosts.received(1) == [frame(THERE, HERE)]


@pytest.mark.parametrize(
    "stays",
    [frame(GATEWAY_MAC, HERE), frame(THERE, GATEWAY_MAC), question(GATEWAY_ADDR, HERE), b"\xff" * 9],
)
def test_what_concerns_the_gateway_stays_here(hosts: Hosts, stays: bytes) -> None:
    hosts.link.send([framed(stays), framed(frame(THERE, HERE))])
    assert hosts.received(0) == hosts.received(1) == [frame(THERE, HERE)]
    assert hosts.drops() == {"vxlan_frame_dropped_stays_here": 1}


def test_super_segments_are_cut(hosts: Hosts) -> None:
    macs = ethernet.header(THERE, HERE, ethernet.TYPE_IPV4)
    header, body = super_segment(5, bytes(60000), 1400, eth_header=macs)
    hosts.link.send([framed(frame(THERE, HERE)), framed(body, header), framed(frame(THERE, HERE, 61))])
    cut = [bytes(each) for each in tso.cut(memoryview(body), header)]
    assert hosts.received(0) == [frame(THERE, HERE), *cut, frame(THERE, HERE, 61)]
    assert hosts.received(1)[1:-1] == cut


def test_partial_checksums_are_completed(hosts: Hosts) -> None:
    macs = ethernet.header(THERE, HERE, ethernet.TYPE_IPV4)
    header, body = super_segment(5, b"payload", 1400, eth_header=macs)
    hosts.link.send([framed(body, header)])
    whole = bytearray(body)
    tso.complete(whole, header.csum_start, header.csum_offset)
    assert hosts.received(0) == [whole]


@given(st.lists(st.integers(14, 1400), max_size=80))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_of_any_lengths_arrive_in_order(hosts: Hosts, sizes: list[int]) -> None:
    sent = [frame(THERE, HERE, size) for size in sizes]
    buffers: list[Buffer] = [framed(each) for each in sent]
    hosts.link.send(buffers)
    assert hosts.received(0) == hosts.received(1) == sent


class Stubborn:
    """A socket whose answers the test has set, and that keeps what it was given."""

    def __init__(self, *results: int) -> None:
        self.can_cut = True
        self.results = list(results)
        self.sent: list[tuple[bytes, int, bool]] = []

    def fileno(self) -> int:
        return -1

    def receive(self, room: memoryview) -> tuple[int, int, str]:
        raise BlockingIOError

    def send(self, parts: Sequence[Buffer], size: int, is_one: bool, where: tuple[str, int]) -> int:
        result = self.results.pop(0) if self.results else vxlan_socket.SENT
        if result == vxlan_socket.SENT:
            self.sent.append((b"".join(parts), size, is_one))
        return result

    def close(self) -> None:
        pass


def stubborn(*results: int) -> tuple[Stubborn, VxlanLink]:
    sock = Stubborn(*results)
    place = vxlan_url.parse(f"udp://127.0.0.1?vni={VNI}&remote=127.0.0.2")
    return sock, VxlanLink(sock, place, Gateway(*ADDRESSES), Pool(0, 1), [], lambda _: 1500)


def test_frames_wait_while_the_socket_is_full() -> None:
    sock, link = stubborn(vxlan_socket.FULL, vxlan_socket.FULL)
    link.send([framed(frame(THERE, HERE)), framed(frame(THERE, HERE, 99))])
    assert link.blocked
    assert link.backlog_bytes == 2 * 22 + 60 + 99
    link.flush()
    assert link.blocked
    link.flush()
    assert not link.blocked
    assert link.backlog_bytes == 0
    assert [data for data, _, _ in sock.sent] == [
        HEADER + frame(THERE, HERE),
        HEADER + frame(THERE, HERE, 99),
    ]


def test_what_the_kernel_cannot_cut_is_sent_one_by_one() -> None:
    sock, link = stubborn(vxlan_socket.CUT_YOURSELF)
    link.send([framed(frame(THERE, HERE))] * 3)
    assert sock.sent == [(HEADER + frame(THERE, HERE), 82, True)] * 3


def test_datagrams_that_cannot_be_sent_are_counted() -> None:
    _, link = stubborn(vxlan_socket.TOO_LONG, vxlan_socket.UNREACHABLE)
    link.send([framed(frame(THERE, HERE)), framed(frame(THERE, HERE, 99))])
    assert link.take_drops() == {"vxlan_frame_dropped_too_long": 1, "vxlan_frame_dropped_unreachable": 1}
    assert link.is_outdated


# --- the listener ------------------------------------------------------------------------------


def test_the_link_is_there_from_the_start_and_reports_another_mtu() -> None:
    owner = Owner()
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))
    place = vxlan_url.parse(f"udp://127.0.0.1:{ours.getsockname()[1]}?vni={VNI}&remote=127.0.0.2")
    listener = owner.open(VxlanListener(ours, place, ADDRESSES))
    arrival = owner.guest()
    assert arrival.protocol == "vxlan"
    assert arrival.link.tunnel_mtu > 1450, "loopback has a large MTU"
    listener.on_timer(100.0)
    assert owner.new_mtus == []
    assert 100.0 < listener.deadline() < 200.0
    link = arrival.link
    assert isinstance(link, VxlanLink)
    link.send([framed(frame(THERE, HERE, 65500))])
    assert link.is_outdated, "no datagram has that length"
    assert listener.deadline() <= 101.0
    listener.on_timer(101.0)
    assert not link.is_outdated
    owner.leave(link)
    assert listener.deadline() == float("inf")
    listener.close()


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        place = vxlan_url.parse(f"udp://127.0.0.1:{taken.getsockname()[1]}?vni=7&remote=127.0.0.2")
        with pytest.raises(vxlan_socket.AddressError, match="address already in use"):
            vxlan_socket.bind(place)
