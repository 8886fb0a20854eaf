"""Compiled calls on sockets do what those of Python do, and the collector skips objects without cycles."""

import pytest

from tests.support.twin import compiled_python, require_compiled

_CALLS = """
import errno, socket, struct
from pipeline.host import tcp
from pipeline.system import socket_calls as calls

linger = lambda sock: struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sock:
    assert not calls.has_peer(sock)
    sock.connect(server.getsockname())
    assert calls.has_peer(sock) is True
    calls.set_linger(sock, 1)
    assert linger(sock) == (1, 0)
    calls.set_linger(sock, 0)
    assert linger(sock) == (0, 0)
    for value in (1, 0, 1):
        calls.set_option(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY, value)
        assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == value
    calls.set_option(sock, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    try:
        calls.set_option(sock, socket.IPPROTO_TCP, 9999, 1)
    except OSError as error:
        assert error.errno == errno.ENOPROTOOPT
    else:
        raise AssertionError("an unknown option was set")
ours, theirs = socket.socketpair()
with ours, theirs:
    ours.setblocking(False)
    room = bytearray(8)
    assert calls.receive(ours, memoryview(room)) == -1
    theirs.send(b"0123456789")
    assert calls.receive(ours, memoryview(room)[2:6]) == 4
    assert room == b"\\0\\0" + b"0123" + b"\\0\\0"
    assert calls.receive(ours, memoryview(room)) == 6
    for data in (b"bytes", bytearray(b"array"), memoryview(b"a view")[2:]):
        assert calls.send(ours, data) == len(data)
        assert theirs.recv(100) == bytes(data)
    big = bytes(1 << 20)
    while calls.send(ours, big) > 0:
        pass
    assert calls.send(ours, big) == -1
    theirs.close()
    try:
        calls.send(ours, b"x")
    except (BrokenPipeError, ConnectionResetError):
        pass
    else:
        raise AssertionError("the other end is closed")
ours, theirs = socket.socketpair()
with ours:
    ours.setblocking(False)
    theirs.close()
    assert calls.receive(ours, memoryview(bytearray(1))) == 0
    try:
        calls.receive(ours, memoryview(b"read only"))
    except (TypeError, BufferError):
        pass
    else:
        raise AssertionError("a view that cannot be written was")
sock = socket.socket()
tcp.close(sock)
assert sock.fileno() == -1
assert not calls.has_peer(sock)
for call in (lambda: calls.set_linger(sock, 1), lambda: calls.set_option(sock, 1, 1, 1)):
    try:
        call()
    except OSError as error:
        assert error.errno == errno.EBADF
    else:
        raise AssertionError("a closed socket has no options")
"""


def test_plain_calls_on_sockets() -> None:
    exec(compile(_CALLS, "calls", "exec"), {})


_CALLERS = """
import errno, socket, struct, sys
from pipeline.host import tcp
from pipeline.host.stream import HostStream
from pipeline.records.run import Run

def failure(call):
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("no exception")

linger = lambda sock: struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
slot = memoryview(bytearray(b"0123456789" * 7000))
with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sock:
    assert not tcp.is_connected(sock)
    sock.connect(server.getsockname())
    assert tcp.is_connected(sock) is True
    tcp.tune(sock)
    assert linger(sock) == (1, 0)
    assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    tcp.keep_alive(sock)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == tcp.KEEPALIVE_IDLE_S
    tcp.send_at_once(sock)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    theirs, _ = server.accept()
    with theirs:
        tcp.reset(sock)
        assert isinstance(failure(lambda: theirs.recv(1)), ConnectionResetError)
    assert sock.fileno() == -1
    assert not tcp.is_connected(sock)
    for call in (lambda: tcp.keep_alive(sock), lambda: HostStream(sock, []).read(slot)):
        assert failure(call).errno == errno.EBADF

class Strange:
    def fileno(self):
        raise KeyError(self)

ours, theirs = socket.socketpair()
with ours, theirs:
    ours.setblocking(False)
    stream = HostStream(ours, [slot])
    room = bytearray(8)

    def write(off, length):
        stream.on_writable()
        stream.enqueue(Run(0, off, length, 0, length))
        return stream.flush(lambda _slot: None)

    counts = set()
    for _ in range(100):
        assert stream.read(memoryview(room)) == -1
        theirs.send(b"0123456789")
        assert stream.read(memoryview(room)[2:6]) == 4
        assert room[2:6] == b"0123"
        assert stream.read(memoryview(room)) == 6
        assert write(5, 7) == 7
        assert theirs.recv(100) == b"5678901"
        for view in (memoryview(b"read only"), memoryview(room)[::2]):
            assert isinstance(failure(lambda: stream.read(view)), (BufferError, TypeError))
        assert isinstance(failure(lambda: tcp.is_connected(Strange())), (AttributeError, KeyError))
        counts.add((sys.getrefcount(ours), sys.getrefcount(slot)))
    assert len(counts) == 1, counts
    while write(0, 70000):
        pass
    assert not stream.writable
    theirs.close()
    stream.on_writable()
    assert isinstance(failure(lambda: stream.flush(id)), (BrokenPipeError, ConnectionResetError))
"""


def test_plain_callers_of_these() -> None:
    exec(compile(_CALLERS, "callers", "exec"), {})


def test_compiled_callers_of_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """socket_calls itself is not compiled. What calls it has the functions of access.h instead."""
    require_compiled()
    monkeypatch.setenv("GVTAP_TEST_PLAIN", "1")
    code = "from pipeline.host import stream\nassert not stream.__file__.endswith('.py')\n" + _CALLERS
    assert compiled_python(code).wait() == 0


_UNTRACKED = """
import gc
from pipeline.engines.tcp import connection
from pipeline.engines.tcp.config import TcpConfig
from pipeline.records import run

assert not connection.__file__.endswith(".py")
made = connection.Connection.active(TcpConfig(), 1, 0.0)
for thing in (made, made.rcv, made.snd, made.cc, run.Run(0, 0, 1, 0, 1)):
    assert not gc.is_tracked(thing), thing
"""


def test_the_collector_does_not_know_what_has_no_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiled()
    monkeypatch.setenv("GVTAP_TEST_PLAIN", "1")
    assert compiled_python(_UNTRACKED).wait() == 0
