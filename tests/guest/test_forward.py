"""The forwarder between a stand-in tap (datagram sockets keep frames apart as a tap does) and a stream."""

import errno
import os
import socket
import threading
from collections.abc import Iterator
from types import TracebackType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.forward import Forwarder
from guest.link import Link, LinkError
from pipeline.system.tap import Tap
from pipeline.wire import framing
from pipeline.wire.errors import WireError
from pipeline.wire.framing import LE16, QEMU, Framing


class StopLoopError(Exception):
    """Raised by a watcher to end the loop."""


class Bench:
    """A forwarder running in a thread; the test holds the far ends of tap and link."""

    def __init__(self, form: Framing = LE16, max_frame: int = 4014) -> None:
        self.kernel, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host, link = socket.socketpair()
        for sock in (self.kernel, self.host):
            sock.settimeout(5)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        tap.setblocking(False)
        fd = link.detach()
        self.link = Link(fd, fd)
        self.tap = Tap(tap.detach(), "tap0")
        self.forwarder = Forwarder(self.tap, self.link, form, max_frame)
        self.form = form
        self.error: BaseException | None = None
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.forwarder.run({self._stop_read: self._stopped})
        except Exception as error:
            self.error = error

    def _stopped(self) -> None:
        raise StopLoopError

    def ended(self) -> BaseException | None:
        """Wait until the loop has ended by itself; how."""
        self._thread.join(5)
        assert not self._thread.is_alive()
        return self.error

    def __enter__(self) -> "Bench":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join(5)
        self.tap.close()
        self.link.close()
        self.kernel.close()
        self.host.close()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def from_host(self, frame: bytes) -> bytes:
        """The frame as it lies on the link."""
        return self.form.prefix.pack(len(frame)) + frame

    def read_link(self, count: int) -> list[bytes]:
        """The next count frames the host gets."""
        data, got = b"", []
        while len(got) < count:
            whole, rest = framing.split(data, 0, len(data), self.form)
            got += [data[off : off + size] for off, size in whole]
            data = data[rest:]
            if len(got) < count:
                data += self.host.recv(1 << 20)
        return got


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


def test_frames_of_the_guest_reach_the_host_behind_their_length(bench: Bench) -> None:
    bench.kernel.send(b"a" * 60)
    bench.kernel.send(b"b" * 1514)
    assert bench.read_link(2) == [b"a" * 60, b"b" * 1514]


def test_frames_of_the_host_reach_the_guest_one_write_each(bench: Bench) -> None:
    bench.host.sendall(bench.from_host(b"a" * 60) + bench.from_host(b"b" * 1514))
    assert bench.kernel.recv(70000) == b"a" * 60
    assert bench.kernel.recv(70000) == b"b" * 1514


@pytest.mark.parametrize("form, length", [(LE16, 65535), (LE16, 4015), (QEMU, 100_000)])
def test_a_frame_longer_than_the_mtu_flag_passes_whole_in_both_directions(form: Framing, length: int) -> None:
    frame = os.urandom(length)
    with Bench(form, max_frame=4014) as bench:
        bench.kernel.send(frame)
        assert bench.read_link(1) == [frame]
        bench.host.sendall(bench.from_host(frame))
        assert bench.kernel.recv(200_000) == frame


def test_a_frame_which_the_prefix_cannot_count_is_dropped_and_the_next_one_passes(bench: Bench) -> None:
    bench.kernel.send(b"x" * 65536)
    bench.kernel.send(b"y" * 100)
    assert bench.read_link(1) == [b"y" * 100]
    assert bench.forwarder.dropped_oversized == 1


def test_runts_and_empty_frames_of_the_host_are_left_out(bench: Bench) -> None:
    bench.host.sendall(bench.from_host(b"") + bench.from_host(b"x" * 13) + bench.from_host(b"y" * 14))
    assert bench.kernel.recv(70000) == b"y" * 14


def test_a_host_that_does_not_read_stops_the_reading_of_the_tap_and_nothing_is_lost(bench: Bench) -> None:
    frames = [index.to_bytes(4, "big") * 350 for index in range(4000)]

    def guest() -> None:
        for frame in frames:
            bench.kernel.send(frame)

    sender = threading.Thread(target=guest)
    sender.start()
    sender.join(0.3)
    assert sender.is_alive(), "5.6 MB went nowhere"
    bench.host.sendall(bench.from_host(b"z" * 60))
    assert bench.kernel.recv(70000) == b"z" * 60, "the other direction must go on"
    assert bench.read_link(len(frames)) == frames
    sender.join()


def test_a_host_that_hangs_up_ends_the_loop(bench: Bench) -> None:
    bench.host.shutdown(socket.SHUT_RDWR)
    assert isinstance(bench.ended(), LinkError)


def test_a_length_no_frame_has_ends_the_loop() -> None:
    with Bench(QEMU) as bench:
        bench.host.sendall(b"\xff\xff\xff\xff" + b"x" * 100)
        assert isinstance(bench.ended(), WireError)


def test_a_frame_the_tap_refuses_is_lost_and_the_link_lives_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down:
        def write(self, _frame: memoryview) -> None:
            raise OSError(errno.EIO, "link is down")

    working = bench.forwarder._tap
    monkeypatch.setattr(bench.forwarder, "_tap", Down())
    bench.host.sendall(bench.from_host(b"lost" * 20))
    deadline = threading.Event()
    while bench.forwarder.dropped_by_tap == 0:
        deadline.wait(0.01)
    monkeypatch.setattr(bench.forwarder, "_tap", working)
    bench.host.sendall(bench.from_host(b"kept" * 20))
    assert bench.kernel.recv(70000) == b"kept" * 20


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(14, 3000), min_size=1, max_size=60), cuts=st.lists(st.integers(1, 4000)))
def test_frames_survive_however_the_stream_is_cut(lengths: list[int], cuts: list[int]) -> None:
    frames = [bytes([index % 251]) * length for index, length in enumerate(lengths)]
    with Bench() as bench:
        data = b"".join(map(bench.from_host, frames))
        for cut in cuts:
            bench.host.sendall(data[:cut])
            data = data[cut:]
        bench.host.sendall(data)
        assert [bench.kernel.recv(70000) for _ in frames] == frames
