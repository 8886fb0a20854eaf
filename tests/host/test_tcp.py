"""Host TCP sockets: connect outcomes, orderly ends, resets."""

import contextlib
import errno
import os
import select
import signal
import socket

import pytest

from pipeline.engines import refusal
from pipeline.host import tcp
from pipeline.wire import icmp


def wait_writable(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    assert poll.poll(5000)


LOOPBACKS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.mark.parametrize("family, address", LOOPBACKS, ids=["IPv4", "IPv6"])
def test_connect_to_a_listener_stands_without_an_error(family: int, address: str) -> None:
    with socket.create_server((address, 0), family=family) as server:
        sock, error = tcp.connect(address, server.getsockname()[1])
        assert sock is not None
        assert error == 0
        wait_writable(sock)
        assert tcp.finish(sock) == 0
        sock.close()


@pytest.mark.parametrize("family, address", LOOPBACKS, ids=["IPv4", "IPv6"])
def test_a_client_has_one_text_whatever_socket_accepted_it(family: int, address: str) -> None:
    # The socket for both families sees IPv4 clients with mapped addresses.
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both,
        socket.create_server((address, 0), family=family) as one,
    ):
        for server in (both, one):
            with socket.create_connection((address, server.getsockname()[1])) as client:
                accepted, _ = server.accept()
                with accepted:
                    seen = tcp.client_text(tcp.client_of(accepted))
                assert seen == (address, client.getsockname()[1])


def test_a_client_without_an_address_has_no_text() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert tcp.client_text(tcp.client_of(one)) == ("", 0)


@pytest.mark.parametrize("family, address", LOOPBACKS, ids=["IPv4", "IPv6"])
def test_connect_to_a_closed_port_is_refused(family: int, address: str) -> None:
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
    sock, error = tcp.connect(address, port)
    if sock is not None:
        wait_writable(sock)
        error = tcp.finish(sock)
        sock.close()
    assert error == errno.ECONNREFUSED


def test_a_system_without_a_family_reports_its_errno(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "no IPv6")

    monkeypatch.setattr(socket, "socket", refuse)
    assert tcp.connect("2001:db8::1", 80) == (None, errno.EAFNOSUPPORT)
    assert refusal.answer_to_syn(errno.EAFNOSUPPORT) == icmp.NET_UNREACHABLE


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


def test_options_of_a_connection_that_was_reset_are_no_error() -> None:
    class Reset(socket.socket):
        """As macOS has it."""

        def setsockopt(self, *_args: object) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    with Reset() as sock:
        tcp.tune(sock)
        assert not sock.getblocking()
