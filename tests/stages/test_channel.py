"""Control channel: whole messages with their descriptors, never blocking, never losing order."""

import os
import socket
from collections.abc import Iterator

import pytest

from pipeline.stages.channel import ControlChannel

Pair = tuple[ControlChannel, ControlChannel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channels = ControlChannel(ends[0]), ControlChannel(ends[1])
    yield channels
    for channel in channels:
        channel.close()


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


def test_sending_to_nobody_is_no_error(pair: Pair) -> None:
    pair[1].close()
    pair[0].send({"event": "lost"})
    assert pair[0].ended
    assert pair[0].backlog == 0


def test_a_message_longer_than_the_socket_can_carry_is_refused(pair: Pair) -> None:
    with pytest.raises(OSError):
        pair[0].send({"pad": bytes(4_000_000)})
