"""The tap: names, addresses, link state, one frame a read and a write."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from pipeline.system.tap import Tap, mac_of
from tests.support.netns import Namespace, Network, wait_for

MAC = bytes.fromhex("5a94efe40cee")


@pytest.mark.parametrize("name", ["", "x" * 16, "a/b", "a\0b"])
def test_a_name_the_kernel_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        Tap.open(name)


def test_the_address_of_no_interface_is_an_os_error() -> None:
    with pytest.raises(OSError) as caught:
        mac_of("nosuch0")
    assert caught.value.errno == errno.ENODEV


@pytest.fixture(scope="module")
def guest() -> Iterator[Namespace]:
    with Network() as network:
        yield network.guest


@pytest.mark.e2e
class TestInANamespace:
    """A real tap. Control sockets must be made inside, hence guest.call."""

    def test_it_is_made_addressed_and_set_up_and_vanishes_when_closed(self, guest: Namespace) -> None:
        tap = guest.call(lambda: Tap.open("tap0"))
        guest.call(lambda: tap.set_mac(MAC))
        guest.call(tap.set_up)
        assert guest.call(lambda: mac_of("tap0")) == MAC
        shown = guest.run("ip", "link", "show", "tap0").stdout
        assert "UP" in shown
        assert "5a:94:ef:e4:0c:ee" in shown
        tap.close()
        assert guest.run("ip", "link", "show", "tap0", check=False).returncode != 0

    def test_its_mtu_is_told_and_set(self, guest: Namespace) -> None:
        tap = guest.call(lambda: Tap.open("tap0"))
        assert guest.call(tap.mtu) == 1500
        guest.call(lambda: tap.set_mtu(65521))
        assert guest.call(tap.mtu) == 65521
        with pytest.raises(OSError):
            guest.call(lambda: tap.set_mtu(65522))
        tap.close()

    def test_a_tap_in_use_is_busy(self, guest: Namespace) -> None:
        tap = guest.call(lambda: Tap.open("tap0"))
        with pytest.raises(OSError) as caught:
            guest.call(lambda: Tap.open("tap0"))
        assert caught.value.errno == errno.EBUSY
        tap.close()

    def test_a_read_is_a_frame_and_a_write_is_a_frame(self, guest: Namespace) -> None:
        tap = guest.call(lambda: Tap.open("tap0"))
        guest.call(tap.set_up)

        def packet_socket() -> socket.socket:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
            sock.bind(("tap0", 0x88B5))
            sock.settimeout(2)
            return sock

        frame = b"\xff" * 6 + MAC + b"\x88\xb5" + b"payload" * 20
        with guest.call(packet_socket) as sock:
            sock.send(frame)

            def ours() -> bool:
                # The kernel sends IPv6 frames of its own; no packet information is in front.
                try:
                    return os.read(tap.fd, 65536) == frame
                except BlockingIOError:
                    return False

            wait_for(ours, "the frame sent through the interface", 2)
            os.write(tap.fd, frame)
            assert sock.recv(65536) == frame
        tap.close()
