"""HostStream: runs out of slots to a socket, partial writes, half-close, references."""

import socket
import tracemalloc
from collections.abc import Iterator

import pytest

from pipeline.host.stream import IS_ALL, IS_END, HostStream
from pipeline.records.run import Run


@pytest.fixture
def pair() -> Iterator[tuple[HostStream, socket.socket, list[memoryview]]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    slots = [memoryview(bytearray(bytes([i]) * 70000)) for i in range(4)]
    stream = HostStream(ours, slots)
    stream.on_writable()
    yield stream, theirs, slots
    ours.close()
    theirs.close()


@pytest.fixture
def tcp_pair() -> Iterator[tuple[HostStream, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours, theirs:
        ours.setblocking(False)
        yield HostStream(ours, []), theirs


def test_runs_are_written_in_order_and_their_references_given_back(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, _ = pair
    freed: list[int] = []
    stream.enqueue(Run(1, 10, 150, 100, 60, 0))
    stream.enqueue(Run(2, 0, 20, 0, 1000, 0))
    assert stream.flush(freed.append) == 170
    assert theirs.recv(1000) == b"\1" * 150 + b"\2" * 20
    assert freed == [1, 2]
    assert stream.queued_bytes == 0


def test_a_full_socket_keeps_the_rest_queued_and_goes_on_where_it_stopped(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, _ = pair
    stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    freed: list[int] = []
    total = 0
    for slot in (0, 1, 2, 3):
        stream.enqueue(Run(slot, 0, 65536, 0, 65536, 0))
        total += 65536
    received = bytearray()
    taken = stream.flush(freed.append)
    assert 0 < taken < total
    assert not stream.writable
    while len(received) < total:
        received += theirs.recv(total)
        stream.on_writable()
        taken += stream.flush(freed.append)
    assert taken == total
    assert bytes(received) == b"".join(bytes([i]) * 65536 for i in range(4))
    assert freed == [0, 1, 2, 3]


def test_the_fin_waits_for_the_queue(pair: tuple[HostStream, socket.socket, list[memoryview]]) -> None:
    stream, theirs, _ = pair
    stream.writable = False
    stream.enqueue(Run(1, 0, 100, 0, 100, 0))
    stream.finish_writing()
    stream.flush(lambda _slot: None)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    stream.on_writable()
    stream.flush(lambda _slot: None)
    assert theirs.recv(200) == b"\1" * 100
    assert theirs.recv(200) == b""
    theirs.sendall(b"other direction")
    assert stream.read(memoryview(bytearray(100))) == 15


def test_the_fin_is_left_to_close_if_that_follows(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, _ = pair
    theirs.shutdown(socket.SHUT_WR)
    assert stream.read(memoryview(bytearray(100))) == 0
    stream.enqueue(Run(1, 0, 100, 0, 100, 0))
    stream.finish_writing()
    stream.close_sends_fin()
    assert stream.flush(lambda _slot: None) == 100
    assert stream.write_finished
    assert theirs.recv(200) == b"\1" * 100
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    stream.sock.close()
    assert theirs.recv(1) == b""


def test_read_tells_data_nothing_and_end_apart(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, _ = pair
    view = memoryview(bytearray(100))
    stream.on_readable()
    assert stream.read(view) == -1
    assert not stream.readable
    theirs.sendall(b"abc")
    assert stream.read(view) == 3
    theirs.close()
    assert stream.read(view) == 0


def test_a_read_that_does_not_fill_its_view_is_the_last_where_the_event_says_so(
    tcp_pair: tuple[HostStream, socket.socket],
) -> None:
    stream, theirs = tcp_pair
    view = memoryview(bytearray(4))
    theirs.sendall(b"12345678901")
    stream.on_readable(IS_ALL)
    assert [stream.read(view), stream.readable] == [4, True]
    assert [stream.read(view), stream.readable] == [4, True]
    assert [stream.read(view), stream.readable] == [3, False]
    # An end that the event has reported is read after the bytes.
    theirs.sendall(b"123")
    theirs.close()
    stream.on_readable()
    assert [stream.read(view), stream.readable] == [3, True]
    assert [stream.read(view), stream.readable] == [0, True]


def test_a_short_read_is_the_end_where_the_event_says_so(
    tcp_pair: tuple[HostStream, socket.socket],
) -> None:
    stream, theirs = tcp_pair
    view = memoryview(bytearray(4))
    theirs.sendall(b"12345678901")
    theirs.shutdown(socket.SHUT_WR)
    stream.on_readable(IS_END)
    assert [stream.read(view), stream.readable, stream.read_ended] == [4, True, False]
    assert [stream.read(view), stream.readable, stream.read_ended] == [4, True, False]
    assert [stream.read(view), stream.readable, stream.read_ended] == [3, False, True]


def test_an_end_after_a_full_view_is_read(
    tcp_pair: tuple[HostStream, socket.socket],
) -> None:
    stream, theirs = tcp_pair
    view = memoryview(bytearray(4))
    theirs.sendall(b"1234")
    theirs.shutdown(socket.SHUT_WR)
    stream.on_readable(IS_END)
    assert [stream.read(view), stream.readable, stream.read_ended] == [4, True, False]
    assert stream.read(view) == 0


@pytest.mark.parametrize("short_read", [IS_ALL, IS_END])
def test_a_unix_socket_that_passed_descriptors_is_read_to_its_end(
    pair: tuple[HostStream, socket.socket, list[memoryview]], short_read: int
) -> None:
    stream, theirs, _ = pair
    view = memoryview(bytearray(100))
    # A read does not go beyond the bytes that came with a descriptor.
    socket.send_fds(theirs, [b"first"], [theirs.fileno()])
    theirs.sendall(b"the rest")
    theirs.shutdown(socket.SHUT_WR)
    stream.on_readable(short_read)
    assert [stream.read(view), stream.readable, stream.read_ended] == [5, True, False]
    assert [stream.read(view), stream.readable, stream.read_ended] == [8, True, False]
    assert stream.read(view) == 0


def test_a_broken_connection_raises_and_its_queue_can_be_given_back(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, _ = pair
    theirs.close()
    freed: list[int] = []
    stream.enqueue(Run(3, 0, 10, 0, 10, 0))
    with pytest.raises(BrokenPipeError):
        stream.flush(freed.append)
    stream.discard(freed.append)
    assert freed == [3]


def test_more_pieces_than_one_gather_call_takes_all_arrive(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, slots = pair
    slots[1][:] = bytes(i % 251 for i in range(len(slots[1])))
    freed: list[int] = []
    stream.enqueue(Run(1, 3, 4001, 7, 2, 0))
    stream.enqueue(Run(2, 0, 5, 0, 5, 0))
    wanted = bytes((3 + i // 2 * 7 + i % 2) % 251 for i in range(4001)) + b"\2" * 5
    assert stream.flush(freed.append) == 4006
    received = b""
    while len(received) < 4006:
        received += theirs.recv(10000)
    assert received == wanted
    assert freed == [1, 2]


def test_spilled_bytes_go_before_what_is_queued_later_and_hold_no_slot(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, _ = pair
    stream.writable = False
    freed: list[int] = []
    stream.enqueue(Run(1, 0, 100, 0, 100, 0))
    stream.enqueue(Run(2, 10, 30, 20, 10, 5))
    assert stream.spill(freed.append) == 130
    assert stream.spill(freed.append) == 0
    assert freed == [1, 2]
    stream.enqueue(Run(3, 0, 50, 0, 50, 0))
    stream.finish_writing()
    stream.on_writable()
    assert stream.flush(freed.append) == 180
    assert theirs.recv(1000) == b"\1" * 100 + b"\2" * 30 + b"\3" * 50
    assert theirs.recv(1) == b""
    assert freed == [1, 2, 3]


def test_spilled_bytes_are_written_in_parts_when_the_socket_is_full(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, slots = pair
    stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for slot in range(3):
        slots[slot][:] = bytes((slot + i) % 251 for i in range(len(slots[slot])))
        stream.enqueue(Run(slot, 0, 65536, 0, 65536, 0))
    stream.flush(lambda _slot: None)
    stream.spill(lambda _slot: None)
    received = bytearray()
    while stream.queued_bytes or len(received) < 3 * 65536:
        received += theirs.recv(70000)
        stream.on_writable()
        stream.flush(lambda _slot: None)
    assert bytes(received) == b"".join(bytes((s + i) % 251 for i in range(65536)) for s in range(3))


def test_the_first_bytes_can_be_looked_at_taken_and_put_back(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, _ = pair
    freed: list[int] = []
    assert stream.first(10) == b""
    for slot in (1, 2, 3):
        stream.enqueue(Run(slot, 10, 150, 100, 60, 0))
    assert stream.first(10) == b"\1" * 150
    assert stream.first(200) == b"\1" * 150 + b"\2" * 150
    assert freed == []
    taken = stream.take(freed.append)
    assert taken == b"\1" * 150 + b"\2" * 150 + b"\3" * 150
    assert (freed, stream.queued_bytes, stream.take(freed.append)) == ([1, 2, 3], 0, b"")
    stream.enqueue(Run(3, 0, 20, 0, 1000, 0))
    stream.put_back(taken)
    stream.put_back(b"")
    assert not stream.finishes
    stream.finish_writing()
    assert stream.finishes
    assert stream.flush(freed.append) == 470
    assert theirs.recv(1000) == taken + b"\3" * 20
    assert freed == [1, 2, 3, 3]


def test_the_last_bytes_can_be_taken_and_the_others_are_not_copied_for_each_of_them(
    pair: tuple[HostStream, socket.socket, list[memoryview]],
) -> None:
    stream, theirs, _ = pair
    freed: list[int] = []
    stream.enqueue(Run(0, 0, 65536, 0, 65536, 0))
    stream.enqueue(Run(1, 0, 3, 0, 1000, 0))
    assert stream.take_last(5, freed.append) == b"\0\0\1\1\1"
    assert freed == [0, 1]
    stream.put_last(b"\0\0\1", freed.append)
    stream.put_last(b"", freed.append)
    assert stream.queued_bytes == 65537
    tracemalloc.start()
    for at in range(2000):
        stream.enqueue(Run(2, at, 1, 0, 1000, 0))
        stream.put_last(stream.take_last(1, freed.append), freed.append)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60_000, "all bytes were copied, or each byte has a part of its own"
    assert stream.queued_bytes == 67537
    received = bytearray()
    while stream.queued_bytes:
        stream.on_writable()
        stream.flush(freed.append)
        received += theirs.recv(1 << 20)
    assert bytes(received) == bytes(65536) + b"\1" + b"\2" * 2000
