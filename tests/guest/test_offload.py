"""The agent's half of the offload extension, against hosts of every kind on a socket pair."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from struct import Struct

import pytest

from guest import offload as agent
from guest.link import Link, LinkError
from pipeline.system import tap as tap_module
from pipeline.system.tap import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, Tap
from pipeline.wire import offload
from pipeline.wire.framing import LE16
from tests.support.netns import Namespace, missing

FEATURES = offload.FEATURES
OFFER = offload.build(offload.OFFER, FEATURES)
ACCEPT = offload.build(offload.ACCEPT, FEATURES)
START = offload.build(offload.START, FEATURES)
FRAME = LE16.prefix.pack(60) + bytes(60)
AGREED = agent.Terms(offload.FRAMING, offload.VNET_LEN, FEATURES, b"")


class Host:
    """The other end of a link."""

    def __init__(self) -> None:
        self.sock, ours = socket.socketpair()
        self.sock.settimeout(5)
        fd = ours.detach()
        self.link = Link(fd, fd, requested=True)

    def later(self, *parts: bytes | Callable[[], None]) -> threading.Thread:
        """Send one part after the other from a thread, or call it."""

        def send() -> None:
            for part in parts:
                if isinstance(part, bytes):
                    self.sock.sendall(part)
                    time.sleep(0.01)
                else:
                    part()

        thread = threading.Thread(target=send)
        thread.start()
        return thread

    def expect_accept(self) -> None:
        assert self.sock.recv(100) == ACCEPT


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.link.close()
    made.sock.close()


def test_a_silent_host_gets_the_original_framing_after_a_moment(host: Host) -> None:
    began = time.monotonic()
    assert agent.negotiate(host.link, 0.1) == agent.PLAIN
    assert 0.09 < time.monotonic() - began < 2
    host.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        host.sock.recv(1)


def test_a_host_that_begins_with_a_frame_is_known_at_once_and_its_bytes_are_kept(host: Host) -> None:
    host.sock.sendall(FRAME + FRAME[:30])
    began = time.monotonic()
    assert agent.negotiate(host.link, 5) == agent.PLAIN._replace(head=FRAME + FRAME[:30])
    assert time.monotonic() - began < 2


def test_a_frame_that_is_not_whole_in_time_is_kept(host: Host) -> None:
    host.sock.sendall(FRAME[:5])
    assert agent.negotiate(host.link, 0.05) == agent.PLAIN._replace(head=FRAME[:5])


def test_a_host_that_offers_is_accepted_and_starts(host: Host) -> None:
    thread = host.later(OFFER, host.expect_accept, START + b"behind")
    assert agent.negotiate(host.link, 5) == AGREED._replace(head=b"behind")
    thread.join()


def test_records_may_come_byte_by_byte(host: Host) -> None:
    single = [bytes((byte,)) for byte in OFFER]
    thread = host.later(*single, host.expect_accept, *(bytes((byte,)) for byte in START))
    assert agent.negotiate(host.link, 5) == AGREED
    thread.join()


def test_frames_between_offer_and_start_are_lost_and_nothing_else(host: Host) -> None:
    thread = host.later(OFFER + FRAME, host.expect_accept, FRAME + FRAME + START + b"\1")
    assert agent.negotiate(host.link, 5) == AGREED._replace(head=b"\1")
    thread.join()


def test_only_known_features_are_accepted(host: Host) -> None:
    thread = host.later(
        offload.build(offload.OFFER, 0xFFFFFFFF), host.expect_accept, offload.build(offload.START, FEATURES)
    )
    assert agent.negotiate(host.link, 5) == AGREED
    thread.join()


@pytest.mark.parametrize(
    "offer",
    [
        offload.build(offload.OFFER, FEATURES, version=2),
        offload.build(offload.OFFER, FEATURES, vnet_len=10),
        START,
        ACCEPT,
        LE16.prefix.pack(12) + b"not a record",
    ],
    ids=["version", "header length", "start", "accept", "noise"],
)
def test_any_other_record_is_not_answered(host: Host, offer: bytes) -> None:
    host.sock.sendall(offer + FRAME)
    assert agent.negotiate(host.link, 5) == agent.PLAIN._replace(head=offer + FRAME)
    host.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        host.sock.recv(1)


@pytest.mark.parametrize("sent", [b"", OFFER, OFFER + FRAME], ids=["nothing", "an offer", "a frame"])
def test_a_host_that_hangs_up_ends_the_link(host: Host, sent: bytes) -> None:
    host.sock.sendall(sent)
    host.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(LinkError, match="closed"):
        agent.negotiate(host.link, 5)


def test_a_host_that_offers_and_never_starts_ends_the_link(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "START_SECONDS", 0.05)
    host.sock.sendall(OFFER + FRAME)
    with pytest.raises(LinkError, match="did not start"):
        agent.negotiate(host.link, 5)


# --- the tap ------------------------------------------------------------------------

INT = Struct("i")


class Kernel:
    """Stands for ioctl: takes some offloads and remembers the last it took."""

    def __init__(self, known: int) -> None:
        self.known = known
        self.calls: list[tuple[int, object]] = []
        self.offload = -1

    def ioctl(self, _fd: int, operation: int, argument: object) -> int:
        self.calls.append((operation, argument))
        if operation == tap_module.TUNSETOFFLOAD:
            assert isinstance(argument, int)
            usable = argument & self.known
            both = argument & 0x60 in (0, 0x60)
            if usable != argument or not both or (argument and not argument & offload.CSUM):
                raise OSError(22, "Invalid argument")
            self.offload = argument
        return 0


@pytest.mark.parametrize(
    "known, wanted, taken",
    [
        (0x7F, FEATURES, FEATURES),
        (0x1F, FEATURES, offload.CSUM | offload.TSO4 | offload.TSO6),
        (0x03, FEATURES, offload.CSUM | offload.TSO4),
        (0x01, FEATURES, offload.CSUM),
        (0x00, FEATURES, 0),
        (0x7F, offload.CSUM | offload.TSO4, offload.CSUM | offload.TSO4),
        (0x7F, offload.CSUM | offload.USO4, offload.CSUM),
        (0x7F, offload.TSO4, 0),
        (0x7F, 0, 0),
    ],
)
def test_the_kernel_offloads_what_it_knows_and_the_host_takes(
    monkeypatch: pytest.MonkeyPatch, known: int, wanted: int, taken: int
) -> None:
    kernel = Kernel(known)
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
    assert tap_module.offload(-1, wanted) == taken
    assert kernel.offload == taken
    assert kernel.calls[0] == (0x400454D8, INT.pack(12))


@pytest.mark.e2e
@pytest.mark.skipif(bool(missing()), reason="needs namespaces")
def test_a_real_tap_puts_twelve_bytes_before_each_frame() -> None:
    guest = Namespace(f"gvp{os.getpid()}-offload")
    try:

        def read_one() -> bytes:
            tap = Tap.open("tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
            assert tap_module.offload(tap.fd, FEATURES) & (offload.CSUM | offload.TSO4)
            tap.set_up()
            guest.ip("address", "add", "192.168.127.2/24", "dev", "tap0")
            guest.ip("neigh", "add", "192.168.127.1", "lladdr", "5a:94:ef:e4:0c:dd", "dev", "tap0")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", ("192.168.127.1", 9))
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                try:
                    data = os.read(tap.fd, 70000)
                except BlockingIOError:
                    time.sleep(0.01)
                    continue
                if data.endswith(b"hello"):
                    tap_module.end_offload(tap.fd)
                    tap.close()
                    return data
            raise AssertionError("no frame")

        data = guest.call(read_one)
    finally:
        guest.close()
    assert len(data) == 12 + 14 + 20 + 8 + 5
    # NEEDS_CSUM, no GSO, the checksum of UDP at 34 + 6.
    assert data[:10].hex() == "01000000000022000600"
