"""Control channel: whole messages with their descriptors, never blocking, never losing order."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from pipeline.ipc import channel
from pipeline.ipc.channel import ControlChannel
from tests.stages.conftest import Exhaust

Pair = tuple[ControlChannel, ControlChannel]


@pytest.fixture(params=[socket.SOCK_SEQPACKET, socket.SOCK_STREAM], ids=["packets", "stream"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    ends = socket.socketpair(socket.AF_UNIX, request.param)
    channels = ControlChannel(ends[0]), ControlChannel(ends[1])
    yield channels
    for end in channels:
        end.close()


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    messages = [{"id": n, "op": "x", "head": bytes(n), "leases": {1: "a"}} for n in range(50)]
    for message in messages:
        pair[0].send(message)
    assert [message for message, _ in pair[1].receive()] == messages
    assert pair[1].receive() == []


def test_descriptors_come_with_their_message(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    with socket.socket() as sock:
        pair[0].send({"op": "one"}, [write_end, sock])
    pair[0].send({"op": "two"})
    os.close(write_end)
    (first, fds), (_, none) = pair[1].receive()
    assert first == {"op": "one"}
    assert none == []
    os.write(fds[0], b"through")
    assert os.read(read_end, 100) == b"through"
    for fd in (read_end, *fds):
        os.close(fd)


def test_what_the_socket_does_not_take_waits_with_its_descriptors(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    sent = 0
    while not pair[0].backlog:
        pair[0].send({"n": sent, "pad": bytes(20_000)})
        sent += 1
    pair[0].send({"n": sent}, [write_end])
    sent += 1
    os.close(write_end)
    assert not pair[0].flush()
    got: list[tuple[dict[str, object], list[int]]] = []
    while pair[0].backlog:
        got += pair[1].receive()
        pair[0].flush()
    got += pair[1].receive()
    assert [message["n"] for message, _ in got] == list(range(sent))
    (fd,) = got[-1][1]
    os.write(fd, b"kept")
    assert os.read(read_end, 10) == b"kept"
    os.close(fd)
    assert os.read(read_end, 10) == b"", "no other copy is left open"
    os.close(read_end)


def test_the_end_is_reported_after_what_was_sent_before_it(pair: Pair) -> None:
    pair[0].send({"last": True})
    pair[0].close()
    assert pair[1].receive() == [({"last": True}, [])]
    assert pair[1].ended


def test_what_was_sent_by_an_end_that_left_messages_unread_arrives(pair: Pair) -> None:
    pair[1].send({"op": "unread"})
    for number in range(3):
        pair[0].send({"op": str(number)})
    pair[0].close()
    assert [message["op"] for message, _ in pair[1].receive()] == ["0", "1", "2"]
    assert pair[1].ended


def test_sending_to_nobody_is_no_error(pair: Pair) -> None:
    pair[1].close()
    pair[0].send({"event": "lost"})
    assert pair[0].ended
    assert pair[0].backlog == 0


def test_messages_of_any_length_arrive_with_their_descriptors(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    messages = [{"id": n, "pad": bytes(n)} for n in (1, 65_500, 65_536, 300_000, 3_000_000)]
    for message in messages:
        pair[0].send(message, [write_end])
    got = pair[1].receive()
    assert [message for message, _ in got] == messages
    for _, fds in got:
        (fd,) = fds
        os.write(fd, b"x")
        os.close(fd)
    assert os.read(read_end, 10) == b"xxxxx"
    os.close(read_end)
    os.close(write_end)


def test_a_message_longer_than_any_may_be_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_MESSAGE", 100_000)
    with pytest.raises(OSError, match="too long"):
        pair[0].send({"pad": bytes(100_000)})


# --- no descriptor left -------------------------------------------------------------------


def test_a_message_whose_descriptors_find_no_room_is_lost_and_no_other(
    pair: Pair, exhausted: Exhaust
) -> None:
    read_end, write_end = os.pipe()
    pair[0].send({"n": 1})
    pair[0].send({"n": 2, "id": 7}, [write_end])
    pair[0].send({"n": 3})
    pair[0].send({"id": 8, "pad": bytes(100_000)})
    pair[0].send({"n": 4})
    exhausted(0)
    assert [message for message, _ in pair[1].receive()] == [{"n": 1}, {"n": 3}, {"n": 4}]
    first, filed = pair[1].take_lost()
    assert first == {"n": 2, "id": 7}
    assert filed["id"] == 8
    assert pair[1].take_lost() == []
    os.close(write_end)
    os.close(read_end)


def test_of_descriptors_that_found_room_beside_others_that_did_not_none_stays_open(
    pair: Pair, exhausted: Exhaust
) -> None:
    read_end, write_end = os.pipe()
    pair[0].send({"n": 1}, [write_end, write_end])
    os.close(write_end)
    exhausted(1)
    assert pair[1].receive() == []
    assert len(pair[1].take_lost()) == 1
    assert os.read(read_end, 1) == b"", "no copy is left open"
    os.close(read_end)


def test_a_message_that_cannot_wait_for_want_of_descriptors_is_an_error_and_leaves_nothing(
    pair: Pair, exhausted: Exhaust
) -> None:
    while not pair[0].backlog:
        pair[0].send({"pad": bytes(20_000)})
    waiting = pair[0].backlog
    read_end, write_end = os.pipe()
    exhausted(1)
    with pytest.raises(OSError):
        pair[0].send({"op": "accepted"}, [write_end, write_end])
    assert pair[0].backlog == waiting
    os.close(write_end)
    assert os.read(read_end, 1) == b"", "no copy is left open"
    os.close(read_end)


def test_too_many_descriptors_under_way_make_a_message_wait(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ETOOMANYREFS, "Too many references")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "send_fds", refuse)
        pair[0].send({"op": "accepted"}, [0])
        assert not pair[0].flush()
    assert pair[0].flush()
    ((message, (fd,)),) = pair[1].receive()
    assert message == {"op": "accepted"}
    os.close(fd)
