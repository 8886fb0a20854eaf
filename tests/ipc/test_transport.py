"""Packets on a stream: what the channel's own tests, which run over both kinds, do not reach."""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.ipc import transport
from pipeline.ipc.channel import ControlChannel
from pipeline.ipc.transport import StreamTransport


class Ends:
    """A transport at one end, a plain socket at the other."""

    def __init__(self) -> None:
        self.plain, theirs = socket.socketpair()
        for sock in (self.plain, theirs):
            sock.setblocking(False)
        self.sock = theirs
        self.transport = StreamTransport(theirs)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.plain.close()
    made.sock.close()


def test_a_packet_may_come_byte_by_byte_and_no_read_crosses_into_the_next(ends: Ends) -> None:
    read_end, write_end = os.pipe()
    sent = StreamTransport.HEAD.pack(5) + b"first" + StreamTransport.HEAD.pack(6)
    for at in range(len(sent)):
        with pytest.raises(BlockingIOError):
            ends.transport.receive()
        ends.plain.send(sent[at : at + 1])
        if at == 8:
            assert ends.transport.receive() == (b"first", [], 0)
    socket.send_fds(ends.plain, [b"second" + StreamTransport.HEAD.pack(1)], [])
    socket.send_fds(ends.plain, [b"3"], [write_end])
    assert ends.transport.receive() == (b"second", [], 0)
    assert ends.transport.receive()[0] == b"3"
    os.close(write_end)
    os.close(read_end)


def test_what_is_half_sent_goes_on_before_anything_else(ends: Ends) -> None:
    packets = [bytes([number]) * 60_000 for number in range(20)]
    sent = []
    for packet in packets:
        ends.transport.send(packet, [])
        sent.append(packet)
        if ends.transport.unsent:
            break
    with pytest.raises(BlockingIOError):
        ends.transport.send(b"not taken", [])
    other = StreamTransport(ends.plain)
    got = []
    while len(got) < len(sent):
        try:
            got.append(other.receive()[0])
        except BlockingIOError:
            ends.transport.flush()
    assert got == sent
    assert not ends.transport.unsent


def test_nothing_waits_for_somebody_who_is_gone() -> None:
    ours, theirs = socket.socketpair()
    channel = ControlChannel(ours)
    while not channel.backlog:
        channel.send({"pad": bytes(60_000)})
    theirs.close()
    assert channel.flush()
    assert channel.ended
    assert channel.backlog == 0
    channel.close()


def test_a_packet_cut_off_by_the_end_leaves_no_descriptor_open(ends: Ends) -> None:
    read_end, write_end = os.pipe()
    socket.send_fds(ends.plain, [StreamTransport.HEAD.pack(100) + b"begin"], [write_end])
    os.close(write_end)
    ends.plain.close()
    channel = ControlChannel(ends.sock)
    assert channel.receive() == []
    assert channel.ended
    assert os.read(read_end, 1) == b"", "no copy is left open"
    os.close(read_end)


def test_a_system_that_refuses_to_read_descriptors_loses_that_message_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = (ControlChannel(sock) for sock in socket.socketpair())
    read_end, write_end = os.pipe()
    ours.send({"n": 1, "id": 7}, [write_end])
    ours.send({"n": 2})
    os.close(write_end)
    plain = socket.recv_fds
    refused = []

    def refuse(*args: Any) -> Any:
        if not refused:
            refused.append(args)
            raise OSError(errno.EMSGSIZE, "Message too long")
        return plain(*args)

    monkeypatch.setattr(socket, "recv_fds", refuse)
    assert theirs.receive() == [({"n": 2}, [])]
    assert theirs.take_lost() == [{"n": 1, "id": 7}]
    assert os.read(read_end, 1) == b"", "the descriptor is closed"
    os.close(read_end)
    ours.close()
    theirs.close()


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_descriptors_are_not_inherited_where_the_system_does_not_see_to_it(
    kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_CLOSE_ON_EXEC", 0)
    ours, theirs = (ControlChannel(sock) for sock in socket.socketpair(socket.AF_UNIX, kind))
    read_end, write_end = os.pipe()
    ours.send({"op": "x"}, [write_end])
    ((_, (fd,)),) = theirs.receive()
    assert not os.get_inheritable(fd)
    for each in (fd, read_end, write_end):
        os.close(each)
    ours.close()
    theirs.close()
