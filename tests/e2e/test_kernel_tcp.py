"""The TCP engine against the kernel's TCP over a tap: every combination of options, both as opener.

Differential: whatever both agree on, streams arrive whole both ways and both sides agree on how a
connection ended. The kernel's options are sysctls of its own namespace; windows and segment
sizes are those of its sockets. In the lossy variants frames are lost in both directions.
"""

import errno
import hashlib
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.engines.tcp.config import TcpConfig
from pipeline.system.tap import Tap
from tests.support import traffic
from tests.support.netns import Namespace, wait_for
from tests.support.tap_engine import ENGINE_ADDR, Outcome, Plan, TapEngine, make_tap

pytestmark = pytest.mark.e2e

KILO = 1000
PORT = 80
LOSS = 0.03
TINY_MSS = 88
TINY_WINDOW = 4096
WAIT = 60.0
OPTIONS = ("sack", "timestamps", "window_scaling")
COMBINATIONS = list(itertools.product((False, True), repeat=3))
BOTH_LINKS = pytest.mark.parametrize("loss", [0.0, LOSS], ids=["clean", "loss"])


class Kernel:
    """The namespace whose kernel is the peer."""

    def __init__(self, namespace: Namespace, tap: Tap) -> None:
        self.namespace = namespace
        self.tap = tap

    def options(self, sack: bool, timestamps: bool, window_scaling: bool) -> None:
        for name, value in zip(OPTIONS, (sack, timestamps, window_scaling), strict=True):
            self.namespace.run("sysctl", "-q", "-w", f"net.ipv4.tcp_{name}={int(value)}")

    def open(self, mss: int = 0, window: int = 0) -> socket.socket:
        sock = self.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        sock.settimeout(WAIT)
        if mss:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        return sock

    def connect(self, mss: int = 0, window: int = 0) -> socket.socket:
        sock = self.open(mss, window)
        sock.connect((ENGINE_ADDR, PORT))
        return sock

    def listen(self, mss: int = 0, window: int = 0) -> socket.socket:
        sock = self.open(mss, window)
        sock.bind(("0.0.0.0", 0))
        sock.listen(16)
        return sock


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    namespace = Namespace(f"gvp{os.getpid()}-kernel")
    try:
        tap = make_tap(namespace)
        yield Kernel(namespace, tap)
        tap.close()
    finally:
        namespace.close()


@pytest.fixture(autouse=True)
def all_options(kernel: Kernel) -> None:
    kernel.options(True, True, True)


class Exchange(threading.Thread):
    """The kernel's application: sends a pattern, reads to the end; both at once, as the engine's does."""

    def __init__(self, sock: socket.socket, size: int, seed: int, write: int = 65536) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.received = hashlib.sha256()
        self.count = 0
        self.sent = hashlib.sha256()
        self.errors: list[int | None] = []
        self._size, self._seed, self._write = size, seed, write
        self.start()

    def run(self) -> None:
        sender = threading.Thread(target=self._send, daemon=True)
        sender.start()
        try:
            while data := self.sock.recv(65536):
                self.received.update(data)
                self.count += len(data)
        except OSError as error:
            self.errors.append(error.errno)
        sender.join(WAIT)

    def _send(self) -> None:
        try:
            for part in traffic.pattern(self._seed, self._size):
                self.sent.update(part)
                for begin in range(0, len(part), self._write):
                    self.sock.sendall(part[begin : begin + self._write])
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.errors.append(error.errno)


def check(exchange: Exchange, outcome: Outcome, kernel_sent: int, engine_sent: int) -> None:
    """Both streams whole, both ends closed in order."""
    exchange.join(WAIT)
    assert not exchange.is_alive(), "the kernel's side still waits"
    assert not exchange.errors, exchange.errors
    assert outcome.over.wait(WAIT), "the engine's side still waits"
    assert not outcome.reset
    assert outcome.shutdown
    assert (exchange.count, outcome.received) == (engine_sent, kernel_sent)
    assert outcome.digest.hexdigest() == exchange.sent.hexdigest()
    assert exchange.received.hexdigest() == outcome.sent_digest
    exchange.sock.close()


def run(
    kernel: Kernel,
    cfg: TcpConfig,
    loss: float,
    up: int,
    down: int,
    mss: int = 0,
    window: int = 0,
    write: int = 65536,
    seed: int = 1,
) -> list[Outcome]:
    """Two connections that the kernel opens and two that the engine does, all at once."""
    listener = kernel.listen(mss, window)
    plan = Plan(send=down, seed=99, write=write)
    with TapEngine(kernel.tap, cfg, plan, loss, seed) as engine:
        dialled = [engine.dial(listener.getsockname()[1], plan) for _ in range(2)]
        exchanges = []
        for number in range(2):
            exchanges.append(Exchange(kernel.connect(mss, window), up, number, write))
        for number in range(2):
            accepted, _ = listener.accept()
            accepted.settimeout(WAIT)
            exchanges.append(Exchange(accepted, up, 5 + number, write))
        outcomes = [engine.accept(0), engine.accept(1), *dialled]
        for exchange in exchanges:
            exchange.join(WAIT)
        for outcome in outcomes:
            assert outcome.over.wait(WAIT), "the engine's side still waits"
        by_digest = {outcome.digest.hexdigest(): outcome for outcome in outcomes}
        for exchange in exchanges:
            check(exchange, by_digest[exchange.sent.hexdigest()], up, down)
    listener.close()
    return outcomes


@BOTH_LINKS
@pytest.mark.parametrize(OPTIONS, COMBINATIONS)
def test_the_kernels_options(
    kernel: Kernel, sack: bool, timestamps: bool, window_scaling: bool, loss: float
) -> None:
    kernel.options(sack, timestamps, window_scaling)
    size = 80 * KILO if loss else 400 * KILO
    for outcome in run(kernel, TcpConfig(), loss, size, size):
        assert outcome.last["sack"] is sack
        assert outcome.last["timestamps"] is timestamps
        assert bool(outcome.last["rcv_wind_shift"]) is window_scaling


@BOTH_LINKS
@pytest.mark.parametrize(OPTIONS, COMBINATIONS[:-1])
def test_the_engines_options(
    kernel: Kernel, sack: bool, timestamps: bool, window_scaling: bool, loss: float
) -> None:
    cfg = TcpConfig(sack=sack, timestamps=timestamps, window_scaling=window_scaling)
    size = 80 * KILO if loss else 400 * KILO
    for outcome in run(kernel, cfg, loss, size, size):
        assert outcome.last["sack"] is sack
        assert outcome.last["timestamps"] is timestamps
        assert bool(outcome.last["rcv_wind_shift"]) is window_scaling


@BOTH_LINKS
@pytest.mark.parametrize("options", [(True, True, True), (False, False, False)], ids=["all", "none"])
@pytest.mark.parametrize(
    "tiny", ["kernel mss", "engine mss", "kernel window", "engine window", "both windows", "one byte writes"]
)
def test_tiny_segments_and_windows(
    kernel: Kernel, tiny: str, options: tuple[bool, bool, bool], loss: float
) -> None:
    kernel.options(*options)
    cfg, mss, window, write, size = TcpConfig(), 0, 0, 65536, 30 * KILO
    if tiny == "kernel mss":
        mss = TINY_MSS
    elif tiny == "engine mss":
        cfg = TcpConfig(mtu=TINY_MSS + 40)
    elif tiny == "one byte writes":
        write, size = 1, 600
    if tiny in ("kernel window", "both windows"):
        window, size = TINY_WINDOW, 20 * KILO
    if tiny in ("engine window", "both windows"):
        cfg, size = TcpConfig(initial_receive_window=TINY_WINDOW, max_receive_window=TINY_WINDOW), 20 * KILO
    if loss:
        size //= 3
    run(kernel, cfg, loss, size, size, mss, window, write)


def test_a_route_with_a_small_mss_is_obeyed(kernel: Kernel) -> None:
    kernel.namespace.ip("route", "replace", "10.77.0.0/24", "dev", "tap0", "advmss", "300")
    try:
        for outcome in run(kernel, TcpConfig(), 0.0, 50 * KILO, 50 * KILO):
            assert outcome.last["snd_mss"] == 300 - 12
    finally:
        kernel.namespace.ip("route", "replace", "10.77.0.0/24", "dev", "tap0")


@BOTH_LINKS
def test_newreno_and_cubic_get_the_same_bytes_through(kernel: Kernel, loss: float) -> None:
    run(kernel, TcpConfig(congestion="newreno"), loss, 60 * KILO, 60 * KILO)
    kernel.options(False, True, True)
    run(kernel, TcpConfig(congestion="newreno"), loss, 60 * KILO, 60 * KILO)


@BOTH_LINKS
def test_the_kernel_ends_its_half_first_and_still_gets_everything(kernel: Kernel, loss: float) -> None:
    with TapEngine(kernel.tap, TcpConfig(), Plan(send=100 * KILO, eof_after_peer=True), loss) as engine:
        check(Exchange(kernel.connect(), 0, 1), engine.accept(0), 0, 100 * KILO)


@BOTH_LINKS
def test_the_engine_ends_its_half_first_and_still_gets_everything(kernel: Kernel, loss: float) -> None:
    with TapEngine(kernel.tap, TcpConfig(), Plan(), loss) as engine:
        sock = kernel.connect()
        assert sock.recv(1) == b""
        check(Exchange(sock, 100 * KILO, 1), engine.accept(0), 100 * KILO, 0)


def test_a_reset_of_the_kernel_arrives(kernel: Kernel) -> None:
    with TapEngine(kernel.tap, TcpConfig(), Plan(send=10 * KILO)) as engine:
        sock = kernel.connect()
        sock.recv(100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        outcome = engine.accept(0)
        assert outcome.over.wait(WAIT)
        assert outcome.reset
        assert engine.flow_count == 0


def test_a_kernel_that_closes_with_unread_data_resets(kernel: Kernel) -> None:
    with TapEngine(kernel.tap, TcpConfig(), Plan(send=50 * KILO)) as engine:
        sock = kernel.connect()
        wait_for(lambda: sock.recv(1, socket.MSG_PEEK), "data")
        sock.close()
        outcome = engine.accept(0)
        assert outcome.over.wait(WAIT)
        assert outcome.reset


def test_a_reset_of_the_engine_arrives(kernel: Kernel) -> None:
    with TapEngine(kernel.tap, TcpConfig(), Plan(eof_after_peer=True, reset_after=1000)) as engine:
        exchange = Exchange(kernel.connect(), 500 * KILO, 1)
        exchange.join(WAIT)
        assert errno.ECONNRESET in exchange.errors
        assert engine.accept(0).over.wait(WAIT)
        assert engine.flow_count == 0


def test_refused_both_ways(kernel: Kernel) -> None:
    listener = kernel.listen()
    port = listener.getsockname()[1]
    listener.close()
    with TapEngine(kernel.tap, TcpConfig(), Plan(refuse=True)) as engine:
        outcome = engine.dial(port, Plan())
        assert outcome.over.wait(WAIT)
        assert outcome.reset
        with pytest.raises(ConnectionRefusedError):
            kernel.connect()
        wait_for(lambda: engine.flow_count == 0, "both connections to go")


def test_a_kernel_that_does_not_read_is_probed_until_it_does(kernel: Kernel) -> None:
    with TapEngine(kernel.tap, TcpConfig(), Plan(send=300 * KILO, seed=7)) as engine:
        sock = kernel.connect(window=4096)
        time.sleep(1.5)
        check(Exchange(sock, 1000, 2), engine.accept(0), 1000, 300 * KILO)


def test_an_engine_that_does_not_take_is_probed_until_it_does(kernel: Kernel) -> None:
    cfg = TcpConfig(initial_receive_window=8000, max_receive_window=8000)
    with TapEngine(kernel.tap, cfg, Plan(send=1000, stop_reading_after=4000, pause=1.5)) as engine:
        check(Exchange(kernel.connect(), 100 * KILO, 2), engine.accept(0), 100 * KILO, 1000)


def test_urgent_data_arrive_as_data(kernel: Kernel) -> None:
    with TapEngine(kernel.tap, TcpConfig(), Plan(eof_after_peer=True)) as engine:
        sock = kernel.connect()
        sock.sendall(b"before")
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(b"after")
        sock.shutdown(socket.SHUT_WR)
        outcome = engine.accept(0)
        assert outcome.over.wait(WAIT) or sock.recv(1) == b""
        assert outcome.digest.hexdigest() == hashlib.sha256(b"before!after").hexdigest()
        sock.close()


def test_keep_alive_probes_are_answered_both_ways(kernel: Kernel) -> None:
    cfg = TcpConfig(keepalive_idle=0.3, keepalive_interval=0.3, keepalive_probes=2)
    with TapEngine(kernel.tap, cfg, Plan(eof_after_peer=True)) as engine:
        sock = kernel.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
        time.sleep(3.5)
        check(Exchange(sock, 5000, 3), engine.accept(0), 5000, 0)


def test_a_vanished_kernel_is_found_by_keep_alive(kernel: Kernel) -> None:
    cfg = TcpConfig(keepalive_idle=0.2, keepalive_interval=0.2, keepalive_probes=2)
    with TapEngine(kernel.tap, cfg, Plan(eof_after_peer=True)) as engine:
        sock = kernel.connect()
        outcome = engine.accept(0)
        wait_for(lambda: outcome.established, "the handshake")
        kernel.namespace.ip("address", "del", "10.77.0.2/24", "dev", "tap0")
        try:
            assert outcome.over.wait(WAIT)
            assert outcome.reset
        finally:
            kernel.namespace.ip("address", "add", "10.77.0.2/24", "dev", "tap0")
            sock.close()


def test_the_kernel_may_reuse_a_port_that_is_in_time_wait_here(kernel: Kernel) -> None:
    with TapEngine(kernel.tap, TcpConfig(), Plan(send=100)) as engine:
        port = 0
        for number in range(3):
            sock = kernel.open()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", port))
            port = sock.getsockname()[1]
            sock.connect((ENGINE_ADDR, PORT))
            # The engine's FIN comes first, so TIME-WAIT is on its side.
            assert len(traffic.receive_all(sock)) == 100
            sock.close()
            outcome = engine.accept(number)
            assert outcome.over.wait(WAIT)
            assert outcome.last["state"] == "TIME-WAIT"
