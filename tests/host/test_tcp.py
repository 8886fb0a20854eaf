"""Host TCP sockets: connect outcomes, reset, and the pieces of a range."""

import contextlib
import errno
import os
import select
import signal
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.host import tcp


def wait_writable(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    assert poll.poll(5000)


def test_connect_to_a_listener_stands_without_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock, error = tcp.connect(*server.getsockname())
        assert sock is not None
        assert error == 0
        wait_writable(sock)
        assert tcp.finish(sock) == 0
        sock.close()


def test_connect_to_a_closed_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    sock, error = tcp.connect(*address)
    if sock is not None:
        wait_writable(sock)
        error = tcp.finish(sock)
        sock.close()
    assert error == errno.ECONNREFUSED


def test_reset_is_seen_as_a_reset_by_the_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock, _ = tcp.connect(*server.getsockname())
        assert sock is not None
        peer, _ = server.accept()
        wait_writable(sock)
        tcp.reset(sock)
        with peer, pytest.raises(ConnectionResetError):
            peer.recv(1)


def test_a_connection_that_its_process_leaves_behind_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if child == 0:
            sock, _ = tcp.connect(*server.getsockname())
            assert sock is not None
            tcp.tune(sock)
            wait_writable(sock)
            sock.send(b"the first half")
            os.kill(os.getpid(), signal.SIGKILL)
        peer, _ = server.accept()
        os.waitpid(child, 0)
        with peer, pytest.raises(ConnectionResetError):
            sum(iter(lambda: len(peer.recv(100)), 0))


def test_all_that_was_written_comes_before_an_end_in_order() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock, _ = tcp.connect(*server.getsockname())
        assert sock is not None
        tcp.tune(sock)
        wait_writable(sock)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += sock.send(bytes(1 << 20))
        peer, _ = server.accept()
        tcp.close(sock)
        with peer:
            assert sum(iter(lambda: len(peer.recv(1 << 20)), 0)) == sent


def test_urgent_data_are_not_cut_out_of_the_stream() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock, _ = tcp.connect(*server.getsockname())
        assert sock is not None
        tcp.tune(sock)
        peer, _ = server.accept()
        with peer:
            peer.send(b"abc")
            peer.send(b"X", socket.MSG_OOB)
            peer.send(b"def")
        sock.setblocking(True)
        with sock:
            assert b"".join(iter(lambda: sock.recv(100), b"")) == b"abcXdef"


def test_shutdown_of_a_connection_that_is_gone_returns_the_errno() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock, _ = tcp.connect(*server.getsockname())
        assert sock is not None
        wait_writable(sock)
        peer, _ = server.accept()
        tcp.reset(peer)
        wait_writable(sock)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert tcp.shutdown_write(sock) == errno.ENOTCONN
        sock.close()


@given(
    gso_size=st.integers(1, 50),
    gap=st.integers(0, 20),
    off=st.integers(0, 30),
    total=st.integers(1, 400),
    data=st.data(),
)
def test_pieces_are_the_bytes_that_the_descriptor_formula_names(
    gso_size: int, gap: int, off: int, total: int, data: st.DataObject
) -> None:
    stride = gso_size + gap
    skip = data.draw(st.integers(0, total - 1))
    length = data.draw(st.integers(1, total - skip))
    slot = bytes(i * 7 % 251 for i in range(off + (total // gso_size + 1) * stride))
    wanted = bytes(
        slot[off + ((skip + i) // gso_size) * stride + (skip + i) % gso_size] for i in range(length)
    )
    parts = tcp.pieces(memoryview(slot), off, stride, gso_size, skip, length)
    assert b"".join(parts) == wanted
    assert all(parts)


def test_pieces_of_a_range_in_one_piece_are_one() -> None:
    parts = tcp.pieces(memoryview(bytes(100)), 10, 0, 65535, 5, 50)
    assert [len(part) for part in parts] == [50]


def test_options_of_a_connection_that_was_reset_are_no_error() -> None:
    class Reset(socket.socket):
        """As macOS has it."""

        def setsockopt(self, *_args: object) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    with Reset() as sock:
        tcp.tune(sock)
        assert not sock.getblocking()
