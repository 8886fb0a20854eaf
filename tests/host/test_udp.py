"""Many datagrams in one system call: each arrives as it was sent, with the system's help and without."""

import errno
import socket
from collections.abc import Iterator

import pytest

from pipeline.host import udp
from pipeline.host.udp import Receiver, Sender, SendError, runs
from pipeline.system import inet
from pipeline.wire import ip

Pair = tuple[socket.socket, socket.socket]
DATA = memoryview(bytes(range(251)) * 300)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two sockets connected to each other over the loopback."""
    first, second = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (first, second):
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    first.connect(second.getsockname())
    second.connect(first.getsockname())
    yield first, second
    first.close()
    second.close()


def pieces(size: int, count: int, last: int) -> list[memoryview]:
    """count pieces, the last of last bytes."""
    found = [DATA[index : index + size] for index in range(count - 1)]
    return [*found, DATA[count : count + last]]


@pytest.mark.parametrize("segments", [True, False], ids=["segmented", "one by one"])
@pytest.mark.parametrize(
    "size, count, last",
    [(1400, 46, 1400), (1400, 47, 3), (64, 200, 64), (1, 70, 1), (9000, 9, 50), (30000, 3, 1)],
)
def test_datagrams_keep_their_bounds_and_order(
    pair: Pair, segments: bool, size: int, count: int, last: int
) -> None:
    sender, receiver = pair
    parts = pieces(size, count, last)
    sent = Sender(segments and udp.can_segment()).send(sender, parts, size)
    got = []
    for _ in range(sent):
        got.append(receiver.recv(65535))
    assert got == [bytes(part) for part in parts[:sent]]
    assert sent == count
    with pytest.raises(BlockingIOError):
        receiver.recv(1)


def test_an_address_can_be_given(pair: Pair) -> None:
    _, receiver = pair
    receiver_addr = receiver.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        receiver.connect(other.getsockname())
        for segments in (udp.can_segment(), False):
            assert Sender(segments).send(other, pieces(100, 5, 7), 100, receiver_addr) == 5
            assert [len(receiver.recv(65535)) for _ in range(5)] == [100, 100, 100, 100, 7]


class Unable:
    """A socket whose route cannot cut datagrams."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.asked = 0

    def sendmsg(self, *_: object) -> int:
        self.asked += 1
        raise OSError(self.number, "no")

    def send(self, data: memoryview) -> int:
        return self.sock.send(data)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EMSGSIZE])
def test_what_cannot_be_cut_goes_one_by_one(pair: Pair, number: int) -> None:
    sender, receiver = pair
    unable = Unable(sender, number)
    assert Sender(True).send(unable, pieces(500, 20, 20), 500) == 20  # type: ignore[arg-type]
    assert unable.asked == 1
    assert [len(receiver.recv(65535)) for _ in range(20)] == [500] * 19 + [20]


@pytest.mark.parametrize("segments", [True, False], ids=["segmented", "one by one"])
def test_a_refusal_says_how_many_went_before_it(segments: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        sock.connect(address)
        sock.setblocking(False)
        sock.send(b"x")
        with pytest.raises(SendError) as caught:
            Sender(segments).send(sock, pieces(10, 5, 10), 10)
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.sent == 0


def test_a_full_socket_is_no_error() -> None:
    class Full:
        def send(self, *_: object) -> int:
            raise BlockingIOError

        sendmsg = send

    for segments in (True, False):
        assert Sender(segments).send(Full(), pieces(10, 5, 10), 10) == 0  # type: ignore[arg-type]


# --- many at once ---------------------------------------------------------------------

needs_recvmmsg = pytest.mark.skipif(not udp.can_receive_many(), reason="no recvmmsg here")


@needs_recvmmsg
def test_each_datagram_lies_in_its_row(pair: Pair) -> None:
    sender, ours = pair
    sizes = [100, 0, 1, 100, 64]
    for index, size in enumerate(sizes):
        sender.send(DATA[index : index + size])
    view = memoryview(bytearray(b"\xee" * 4000))
    receiver = Receiver(8, 100)
    assert receiver.receive(ours.fileno(), view, 50, 128, 8) == sizes
    for index, size in enumerate(sizes):
        off = 50 + index * 128
        assert view[off : off + size] == DATA[index : index + size]
        assert set(view[off + size : off + 128]) == {0xEE}
    with pytest.raises(BlockingIOError):
        receiver.receive(ours.fileno(), view, 50, 128, 8)


@needs_recvmmsg
def test_no_more_rows_are_used_than_there_is_room_for(pair: Pair) -> None:
    sender, ours = pair
    for index in range(9):
        sender.send(bytes([index]) * 10)
    view = memoryview(bytearray(400))
    receiver = Receiver(8, 100)
    assert receiver.receive(ours.fileno(), view, 0, 100, 3) == [10] * 3
    assert receiver.receive(ours.fileno(), view, 0, 100, 4) == [10] * 4
    assert view[:10] == bytes([3]) * 10
    assert receiver.receive(ours.fileno(), view, 0, 100, 4) == [10] * 2


@needs_recvmmsg
def test_reads_of_few_and_of_many_rows_take_turns(pair: Pair) -> None:
    sender, ours = pair
    view = memoryview(bytearray(1000))
    receiver = Receiver(8, 100)
    for off, stride, rows in ((0, 100, 1), (7, 120, 8), (300, 100, 2), (0, 110, 2), (5, 110, 3)):
        for index in range(rows):
            sender.send(bytes([rows + index]) * (10 + index))
        assert receiver.receive(ours.fileno(), view, off, stride, rows) == list(range(10, 10 + rows))
        for index in range(rows):
            begin = off + index * stride
            assert view[begin : begin + 10 + index] == bytes([rows + index]) * (10 + index)


@needs_recvmmsg
@pytest.mark.parametrize("size", [101, 1500, 65507])
def test_the_tail_of_a_long_datagram_is_kept(pair: Pair, size: int) -> None:
    sender, ours = pair
    sender.send(b"short")
    sender.send(DATA[:size])
    sender.send(b"behind")
    view = memoryview(bytearray(400))
    receiver = Receiver(4, 100)
    assert receiver.receive(ours.fileno(), view, 0, 100, 4) == [5, size, 6]
    assert bytes(view[100:200]) + bytes(receiver.tail(1, size)) == DATA[:size]
    assert view[200:206] == b"behind"


@needs_recvmmsg
def test_each_datagram_has_its_source_in_either_family() -> None:
    view = memoryview(bytearray(400))
    receiver = Receiver(4, 100, sources=True)
    # One receiver serves sockets of both families, in any order.
    for address in ("127.0.0.1", "::1", "127.0.0.1", "::1"):
        family = inet.family_of(address)
        with (
            socket.socket(family, socket.SOCK_DGRAM) as ours,
            socket.socket(family, socket.SOCK_DGRAM) as one,
            socket.socket(family, socket.SOCK_DGRAM) as other,
        ):
            for sock in (ours, one, other):
                sock.bind((address, 0))
            for sender in (one, other, one):
                sender.sendto(b"x", ours.getsockname())
            assert receiver.receive(ours.fileno(), view, 0, 100, 4) == [1, 1, 1]
            assert receiver.sources(3) == [
                ip.parse(address) << 16 | sender.getsockname()[1] for sender in (one, other, one)
            ]


@needs_recvmmsg
def test_an_error_of_the_socket_is_raised() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        sock.connect(address)
        sock.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            Receiver(4, 100).receive(sock.fileno(), memoryview(bytearray(400)), 0, 100, 4)


@pytest.mark.parametrize(
    "lengths, expected",
    [
        ([5], [(0, 1)]),
        ([5, 5, 5], [(0, 3)]),
        ([5, 5, 3, 3, 5], [(0, 3), (3, 1), (4, 1)]),
        ([3, 5, 5], [(0, 1), (1, 2)]),
        ([5, 0, 5], [(0, 1), (1, 1), (2, 1)]),
        ([0, 0], [(0, 1), (1, 1)]),
        ([11, 11, 4, 11], [(0, 1), (1, 1), (2, 1), (3, 1)]),
    ],
    ids=str,
)
def test_datagrams_one_after_the_other_are_runs(lengths: list[int], expected: list[tuple[int, int]]) -> None:
    assert runs(lengths, 10) == expected
