"""Messages with a length on a stream socket: pieces, ends, and peers that do not read."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.host.framed import FramedStream

Pair = tuple[FramedStream, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    yield FramedStream(ours), theirs
    ours.close()
    theirs.close()


def test_messages_arrive_whole_however_they_are_cut(pair: Pair) -> None:
    stream, peer = pair
    data = b"\0\3abc\0\0\0\2de"
    got = []
    for byte in data:
        peer.send(bytes((byte,)))
        got += stream.receive()
    assert got == [b"abc", b"", b"de"]
    peer.send(data)
    assert stream.receive() == [b"abc", b"", b"de"]
    assert stream.receive() == []
    assert not stream.ended


@given(st.lists(st.binary(max_size=300), max_size=8))
@settings(max_examples=50, deadline=None)
def test_what_one_end_sends_the_other_receives(messages: list[bytes]) -> None:
    left, right = socket.socketpair()
    with left, right:
        sender, receiver = FramedStream(left), FramedStream(right)
        for message in messages:
            sender.send(message)
        assert sender.unsent == 0
        left.shutdown(socket.SHUT_WR)
        got = []
        while not receiver.ended:
            got += receiver.receive()
        assert got == messages


def test_end_of_stream_is_noticed_and_a_partial_message_forgotten(pair: Pair) -> None:
    stream, peer = pair
    peer.send(b"\0\5ab")
    peer.shutdown(socket.SHUT_WR)
    assert [stream.receive(), stream.receive()] == [[], []]
    assert stream.ended
    stream.send(b"answer")
    assert peer.recv(100) == b"\0\6answer"
    assert not stream.broken


def test_gone_peer_breaks_the_stream_without_an_exception(pair: Pair) -> None:
    stream, peer = pair
    peer.close()
    stream.send(b"x")
    stream.send(b"y")
    assert (stream.broken, stream.unsent, stream.flush()) == (True, 0, True)


def test_what_the_peer_does_not_take_waits(pair: Pair) -> None:
    stream, peer = pair
    message = bytes(60000)
    while not stream.unsent:
        stream.send(message)
    assert not stream.flush()
    peer.setblocking(False)
    while stream.unsent:
        peer.recv(1 << 20)
        stream.flush()
    assert not stream.broken
