"""Two links of this program: a super-segment travels between them in one piece, and to nobody else."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engines.offload import tso
from pipeline.links import vxlan_socket
from pipeline.links.vxlan import ASK_SECONDS, VxlanListener
from pipeline.links.vxlan_link import VxlanLink
from pipeline.links.vxlan_url import End, parse
from pipeline.wire import ethernet, virtio_net, vxlan_train
from tests.links.test_vxlan import (
    ADDRESSES,
    GATEWAY_MAC,
    HEADER,
    HERE,
    THERE,
    VNI,
    Hosts,
    frame,
    framed,
    stubborn,
)
from tests.support.offload import super_segment, super_segment_v6
from tests.support.owner import Owner

FROM_HERE = ethernet.header(THERE, HERE, ethernet.TYPE_IPV4)
QUESTION = vxlan_train.QUESTION
ANSWER = vxlan_train.ANSWER


def big(length: int = 60000, seq: int = 5) -> tuple[virtio_net.Header, bytes]:
    """A super-segment for the station of the other host."""
    return super_segment(seq, bytes(at % 251 for at in range(length)), 1400, eth_header=FROM_HERE)


def pass_on(one: Hosts, other: Hosts) -> list[tuple[virtio_net.Header, bytes]]:
    """What the other link reads now."""
    other.link.on_readable(True)
    found = other.read()
    one.link.on_readable(True)
    assert one.read() == []
    return found


@pytest.fixture
def pair() -> Iterator[tuple[Hosts, Hosts]]:
    """Two links that know each other, and the station of the second one."""
    one, other = Hosts(1), Hosts(1)
    # Both have the address 127.0.0.1, which a link does not take for that of another host.
    for made, peer in ((one, other), (other, one)):
        made.link._place = made.link._place._replace(local=End("127.0.0.9", 1), remotes=())
        made.link.set_members([End("127.0.0.1", peer.where[1])])
    other.link.send([framed(frame(HERE, THERE))])
    assert [body for _, body in pass_on(other, one)] == [frame(HERE, THERE)]
    yield one, other
    one.close()
    other.close()


def agree(one: Hosts, other: Hosts) -> None:
    """The first link learns that the other one understands trains."""
    header, body = big()
    one.link.send([framed(body, header)])
    assert one.link.has_questions
    one.link.ask()
    pass_on(one, other)
    one.drops()
    other.drops()


def test_a_super_segment_travels_in_one_piece_when_both_know(pair: tuple[Hosts, Hosts]) -> None:
    one, other = pair
    header, body = big()
    one.link.send([framed(body, header)])
    found = pass_on(one, other)
    assert "vxlan_trains_sent" not in one.drops(), "nobody has answered yet"
    assert sum(len(each) for _, each in found) >= len(body)
    agree(one, other)
    one.link.send([framed(frame(THERE, HERE)), framed(body, header), framed(frame(THERE, HERE, 61))])
    none = virtio_net.Header()
    assert pass_on(one, other) == [(none, frame(THERE, HERE)), (header, body), (none, frame(THERE, HERE, 61))]
    assert one.drops() == {"vxlan_trains_sent": 1}
    assert other.drops() == {"vxlan_trains_received": 1}


@given(
    st.lists(st.integers(1, 64300) | st.sampled_from([64308, 1400, 60000]), min_size=1, max_size=12),
    st.sampled_from([1500, 576, 9000, 65536]),
    st.booleans(),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packets_of_any_lengths_arrive_as_they_were(
    pair: tuple[Hosts, Hosts],
    lengths: list[int],
    mtu: int,
    ipv6: bool,
) -> None:
    one, other = pair
    agree(one, other)
    one.mtu = mtu
    one.link.measure()
    sent = []
    for length in lengths:
        header, body = super_segment_v6(9, bytes(length), 500) if ipv6 else big(length)
        sent.append((header, FROM_HERE[:12] + body[12:]))
    found = []
    for header, body in sent:
        one.link.send([framed(body, header)])
        found += pass_on(one, other)
    for (header, body), (got, read) in zip(sent, found, strict=True):
        if header.gso_type:
            assert (got, read) == (header, body)
        else:
            assert len(read) == len(body), "it has a checksum now"
    drops = other.drops()
    count = sum(1 for header, _ in sent if header.gso_type)
    assert drops.pop("vxlan_trains_received", 0) == count
    assert drops == {}


def test_trains_that_came_in_pieces_lie_in_slots_of_their_own(pair: tuple[Hosts, Hosts]) -> None:
    one, other = pair
    agree(one, other)
    one.link._output._pitch = 700
    sent = [big(64000, seq) for seq in range(6)]
    for header, body in sent:
        one.link.send([framed(body, header)])
    # 92 datagrams are two calls for each.
    assert pass_on(one, other) == sent
    assert other.drops() == {"vxlan_trains_received": 6}


def test_a_train_of_an_unreachable_gateway_or_for_it_is_dropped(pair: tuple[Hosts, Hosts]) -> None:
    one, other = pair
    agree(one, other)
    header, body = big()
    body = GATEWAY_MAC + body[6:]
    one.link._gateway.mac = bytes(6)
    one.link.table.learn(GATEWAY_MAC, 0)
    one.link.send([framed(body, header)])
    assert pass_on(one, other) == []
    assert other.drops() == {"vxlan_trains_received": 1, "vxlan_frame_dropped_gateway": 1}


def test_the_sender_of_a_train_is_known_from_then_on(pair: tuple[Hosts, Hosts]) -> None:
    one, other = pair
    agree(one, other)
    other.link.table.forget(HERE)
    header, body = big()
    one.link.send([framed(body, header)])
    pass_on(one, other)
    assert other.link.table.snapshot() == {HERE: 0}


# --- hosts that do not understand trains, and hostile ones --------------------------------------


def control(hosts: Hosts, host: int = 0) -> list[bytes]:
    """The questions and answers that a host has got. Other datagrams are those of VXLAN."""
    found = []
    while True:
        try:
            datagram = hosts.socks[host].recv(1 << 16)
        except BlockingIOError:
            return found
        if datagram[0] == vxlan_train.MARK:
            found.append(datagram)
        else:
            assert datagram[:8] == HEADER


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    made.send(HEADER + frame(HERE, THERE))
    made.frames()
    yield made
    made.close()


def test_a_host_that_does_not_answer_gets_plain_vxlan(hosts: Hosts) -> None:
    header, body = big()
    cut = [bytes(each) for each in tso.cut(memoryview(body), header)]
    for _ in range(5):
        hosts.link.send([framed(body, header)])
        assert hosts.received() == cut
        hosts.link.ask()
        (asked,) = control(hosts) or [b""]
        assert not asked or vxlan_train.parse_control(asked, VNI)[0] == QUESTION
    assert not control(hosts, 1), "there was nothing for that host"
    assert hosts.drops() == {}


def test_nobody_is_asked_about_small_frames(hosts: Hosts) -> None:
    hosts.link.send([framed(frame(THERE, HERE))])
    assert not hosts.link.has_questions


def test_a_question_is_answered_and_does_not_count_as_an_answer(hosts: Hosts) -> None:
    hosts.send(vxlan_train.build_control(QUESTION, VNI, 99), vxlan_train.build_control(ANSWER, VNI, 99))
    assert hosts.frames() == []
    assert control(hosts) == [vxlan_train.build_control(ANSWER, VNI, 99)]
    header, body = big()
    hosts.link.send([framed(body, header)])
    assert hosts.drops() == {}


def test_a_full_socket_gets_no_answers() -> None:
    sock, link = stubborn(vxlan_socket.FULL)
    link.send([framed(frame(THERE, HERE))])
    assert link.blocked
    for _ in range(100):
        link._on_control(memoryview(vxlan_train.build_control(QUESTION, VNI, 1)), 0)
    assert link.backlog_bytes == len(HEADER + frame(THERE, HERE))
    assert sock.sent == []


def test_strangers_are_not_answered(hosts: Hosts) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.9", 0))
        other.settimeout(0.05)
        other.sendto(vxlan_train.build_control(QUESTION, VNI, 1), hosts.where)
        hosts.link.on_readable(True)
        assert hosts.frames() == []
        with pytest.raises(TimeoutError):
            other.recv(100)
    assert hosts.drops() == {"vxlan_datagram_dropped_unknown_source": 1}


def test_a_host_that_is_gone_leaves_nothing(hosts: Hosts) -> None:
    head = vxlan_train.CHUNK_HEADER.pack(vxlan_train.MARK, vxlan_train.CHUNK, 0, VNI << 8, 1, 5000, 1454)
    hosts.send(head + bytes(1454))
    assert hosts.frames() == []
    hosts.link._place = hosts.link._place._replace(remotes=hosts.link._place.remotes[1:])
    hosts.link.set_members(())
    assert hosts.drops() == {"vxlan_frame_dropped_incomplete": 1}
    assert hosts.link.places.host_of(THERE) == -1


MARKED = st.binary(max_size=120).map(lambda more: bytes((vxlan_train.MARK, vxlan_train.CHUNK)) + more)
CHUNKS = st.builds(
    lambda number, train, total, chunk_len, size: (
        vxlan_train.CHUNK_HEADER.pack(
            vxlan_train.MARK, vxlan_train.CHUNK, number, VNI << 8, train, total, chunk_len
        )
        + bytes(size)
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(20, 300),
    st.sampled_from([64, 100]),
    st.sampled_from([64, 100]) | st.integers(1, 120),
)
PLAIN = st.binary(max_size=100).map(lambda body: HEADER + body)


@given(st.lists(st.binary(max_size=200) | MARKED | CHUNKS | PLAIN, max_size=30))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_datagrams_between_chunks_are_harmless(hosts: Hosts, datagrams: list[bytes]) -> None:
    hosts.send(*datagrams, HEADER + frame())
    assert frame() in hosts.frames()
    hosts.drops()


@given(st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_and_frames_of_one_length_arrive_mixed(hosts: Hosts, data: st.DataObject) -> None:
    size = 82
    plain = HEADER + frame(HERE, THERE, size - 8 - 14)
    packed = frame(HERE, THERE, 64 - 12 - 14) + bytes(12)
    number = 0
    sent: list[bytes] = []
    wanted = 0
    for kind in data.draw(st.lists(st.sampled_from(["plain", "train"]), min_size=1, max_size=40)):
        if kind == "plain":
            sent.append(plain)
            wanted += 1
            continue
        number += 1
        head = (vxlan_train.MARK, vxlan_train.CHUNK, 0, VNI << 8, number, 64, 64)
        sent.append(vxlan_train.CHUNK_HEADER.pack(*head) + packed)
        wanted += 1
    sender = vxlan_socket.VxlanSocket(hosts.socks[0].dup())
    assert sender.send(sent, size, len(sent) == 1, hosts.where) == vxlan_socket.SENT
    hosts.link.on_readable(True)
    assert len(hosts.frames()) == wanted
    hosts.drops()
    sender.close()


def test_the_trains_of_a_link_do_not_begin_where_those_of_an_earlier_one_did(
    pair: tuple[Hosts, Hosts],
) -> None:
    first = []
    for link in (each.link for each in pair):
        train = link._output._packer.pack(bytes(100), bytes(12), 200)
        first.append(vxlan_train.CHUNK_HEADER.unpack_from(train)[4])
    assert first[0] != first[1]


# --- the listener ------------------------------------------------------------------------------


def test_hosts_are_asked_once_a_second_while_trains_would_have_a_use() -> None:
    owner = Owner()
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))
    host = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    host.bind(("127.0.0.2", 0))
    host.setblocking(False)
    place = parse(
        f"udp://127.0.0.1:{ours.getsockname()[1]}?vni={VNI}&remote=127.0.0.2:{host.getsockname()[1]}"
    )
    with host:
        listener = owner.open(VxlanListener(ours, place, ADDRESSES))
        link = owner.guest().link
        assert isinstance(link, VxlanLink)
        listener.on_timer(100.0)
        assert listener.deadline() > 101.0
        link.table.learn(THERE, 0)
        header, body = big(3000)
        questions = 0
        for now in (100.5, 101.0, 101.6, 102.7):
            link.send([framed(body, header)])
            assert listener.deadline() <= 100.5 + ASK_SECONDS * (questions + 1)
            listener.on_timer(now)
            while True:
                try:
                    datagram = host.recv(1 << 16)
                except BlockingIOError:
                    break
                questions += datagram[0] == vxlan_train.MARK
        assert questions == 3
        listener.on_timer(104.0)
        assert listener.deadline() > 104.0
        owner.leave(link)
        listener.close()
