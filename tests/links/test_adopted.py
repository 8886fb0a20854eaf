"""Links that go on in another process: bytes in both directions, and the state of the offload extension."""

import os
import socket
from collections.abc import Iterator

import pytest

from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.ipc.healing_messages import Adopt
from pipeline.links import adopted
from pipeline.links.adopted import AdoptedLinks
from pipeline.links.base import HEADROOM, Link
from pipeline.links.listener import Arrival, LinkResources
from pipeline.links.offload import OffloadLink
from pipeline.links.places import private_row
from pipeline.links.seqpacket import SeqpacketLink
from pipeline.links.stdio import PipePair, StdioLink
from pipeline.links.stream import StreamLink
from pipeline.wire import framing, offload
from pipeline.wire.framing import LE16, QEMU, Framing

SLOTS = [memoryview(bytearray(SLOT_BYTES)) for _ in range(12)]
FRAMES = [bytes((n,)) * size for n, size in enumerate((60, 1514, 300, 9000), 1)]


def framed(frames: list[bytes], form: Framing) -> bytes:
    return b"".join(framing.prefix(len(frame), form) + frame for frame in frames)


class Two:
    """Two ingress workers, one after the other."""

    def __init__(self) -> None:
        self.pools = Pool(0, 6), Pool(6, 6)
        self.before, self.after = (LinkResources(pool, SLOTS, 1500) for pool in self.pools)
        self.listener = AdoptedLinks()
        self.listener._resources = self.after

    def hand_over(self, link: Link, protocol: str) -> Link:
        """The link of the second worker. The first one closes its own."""
        found = adopted.carried(3, 2, Arrival(link, protocol, "peer", "who"))
        assert found is not None
        event, fds = found
        copies = [os.dup(fd) for fd in fds]
        link.close()
        arrival = self.listener.adopt(Adopt.with_fields_of(event), copies, private_row())
        assert arrival[1:] == (protocol, "peer", "who")
        return arrival.link


@pytest.fixture
def two() -> Iterator[Two]:
    made = Two()
    yield made
    for pool in made.pools:
        assert pool.refs_out == 0
        assert pool.audit() is None


def read_all(link: Link) -> list[bytes]:
    found: list[bytes] = []
    while (burst := link.read_burst()) is not None:
        slot, places = burst
        found += [bytes(SLOTS[slot][off : off + length]) for off, length in places]
    return found


def receive_all(sock: socket.socket, link: Link) -> bytes:
    """What the guest gets until the link owes it nothing."""
    sock.setblocking(False)
    found = b""
    while True:
        try:
            while part := sock.recv(1 << 16):
                found += part
        except BlockingIOError:
            if not link.blocked:
                return found
            link.flush()


@pytest.mark.parametrize(("form", "protocol"), [(QEMU, "qemu"), (LE16, "connect")])
@pytest.mark.parametrize("cut", [0, 1, 3, 40, 62, 1200])
def test_a_stream_goes_on_at_the_same_byte(two: Two, form: Framing, protocol: str, cut: int) -> None:
    ours, guest = socket.socketpair()
    link = StreamLink(ours, form, two.before.pool, SLOTS)
    data = framed(FRAMES, form)
    guest.sendall(data[:cut])
    found = read_all(link)
    other = two.hand_over(link, protocol)
    guest.sendall(data[cut:])
    found += read_all(other)
    assert found == FRAMES
    other.close()
    guest.close()


def test_bytes_that_a_guest_has_not_read_follow(two: Two) -> None:
    ours, guest = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    link = StreamLink(ours, QEMU, two.before.pool, SLOTS)
    sent = [framed([bytes((n % 251,)) * 60000], QEMU) for n in range(40)]
    for each in sent:
        assert link.send([each])
    assert link.blocked
    other = two.hand_over(link, "qemu")
    assert other.blocked
    last = framed([b"last" * 20], QEMU)
    other.send([last])
    assert receive_all(guest, other) == b"".join(sent) + last
    other.close()
    guest.close()


def test_a_frame_that_is_too_long_is_skipped_to_its_end(two: Two) -> None:
    ours, guest = socket.socketpair()
    link = StreamLink(ours, QEMU, two.before.pool, SLOTS)
    guest.setblocking(False)
    length = SLOT_BYTES - HEADROOM + 100
    assert length <= QEMU.max
    data = framed([bytes(length)], QEMU)
    guest.sendall(data[:1000])
    assert read_all(link) == []
    sent = 1000
    while sent < len(data) - 30:
        sent += guest.send(data[sent : min(len(data) - 30, sent + 10000)])
        assert read_all(link) == []
    other = two.hand_over(link, "qemu")
    guest.sendall(data[sent:] + framed(FRAMES[:2], QEMU))
    assert read_all(other) == FRAMES[:2]
    other.close()
    guest.close()


@pytest.mark.parametrize("when", ["offered", "agreed", "plain"])
def test_the_offload_extension_keeps_its_state(two: Two, when: str) -> None:
    ours, guest = socket.socketpair()
    link = OffloadLink(ours, two.before.pool, SLOTS)
    link.offer()
    features = offload.CSUM | offload.TSO4
    accept = offload.build(offload.ACCEPT, features)
    first = {"agreed": accept, "plain": framed(FRAMES[:1], LE16), "offered": accept[:3]}[when]
    guest.sendall(first)
    assert read_all(link) == (FRAMES[:1] if when == "plain" else [])
    other = two.hand_over(link, "connect")
    assert isinstance(other, OffloadLink)
    if when == "offered":
        guest.sendall(accept[3:])
        assert read_all(other) == []
    form = LE16 if when == "plain" else offload.FRAMING
    assert other.framing is form
    assert other.features == (0 if when == "plain" else offload.FEATURES & features)
    header = b"" if when == "plain" else bytes(offload.VNET_LEN)
    guest.sendall(framed([header + frame for frame in FRAMES[1:]], form))
    assert read_all(other) == FRAMES[1:]
    offers = receive_all(guest, other).count(offload.build(offload.OFFER, offload.FEATURES))
    assert offers == 1
    other.close()
    guest.close()


def test_a_guest_on_two_descriptors_goes_on(two: Two) -> None:
    from_guest, guest_out = os.pipe()
    guest_in, to_guest = os.pipe()
    link = StdioLink(PipePair(from_guest, to_guest), two.before)
    data = framed(FRAMES, LE16)
    os.write(guest_out, data[:100])
    found = read_all(link)
    other = two.hand_over(link, "stdio")
    os.write(guest_out, data[100:])
    assert found + read_all(other) == FRAMES
    other.send([framed([b"answer"], LE16)])
    assert os.read(guest_in, 100) == framed([b"answer"], LE16)
    other.close()
    os.close(guest_in)
    os.close(guest_out)


def test_packets_go_on(two: Two) -> None:
    ours, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = SeqpacketLink(ours, two.before.pool, SLOTS, 1500)
    guest.send(FRAMES[0])
    assert read_all(link) == FRAMES[:1]
    guest.send(FRAMES[1])
    other = two.hand_over(link, "bess")
    assert read_all(other) == FRAMES[1:2]
    other.close()
    guest.close()


def test_a_link_without_its_descriptor_is_refused(two: Two) -> None:
    ask = Adopt(1, 1, "stdio", "", "", adopted.STDIO, b"", 0)
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="descriptor"):
        two.listener.adopt(ask, [reader], private_row())
    os.close(writer)
