"""The pair of sockets for messages: packets where there are some, else a stream."""

import errno
import os
import socket

import pytest

from pipeline.ipc.socket_pair import socket_pair

plain = socket.socketpair


def refusing(number: int) -> object:
    """A socketpair() of a system that refuses packets in this way."""

    def pair(family: int, kind: int) -> tuple[socket.socket, socket.socket]:
        if kind == socket.SOCK_SEQPACKET:
            raise OSError(number, os.strerror(number))
        return plain(family, kind)

    return pair


def test_packets_are_taken_where_there_are_some() -> None:
    ours, theirs = socket_pair()
    with ours, theirs:
        assert ours.type == theirs.type == socket.SOCK_SEQPACKET


@pytest.mark.parametrize("number", [errno.EPROTONOSUPPORT, errno.EPROTOTYPE])
def test_a_stream_is_taken_where_there_are_none(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socketpair", refusing(number))
    ours, theirs = socket_pair()
    with ours, theirs:
        assert ours.type == theirs.type == socket.SOCK_STREAM


def test_want_of_descriptors_is_no_want_of_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socketpair", refusing(errno.EMFILE))
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        socket_pair()
