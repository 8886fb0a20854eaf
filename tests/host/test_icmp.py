"""Unprivileged ICMP sockets on the loopback, where the system allows them."""

import socket
import struct
import sys

import pytest

from pipeline.host import icmp as host_icmp
from pipeline.wire import icmp, ip


def is_allowed(address: str) -> bool:
    try:
        host_icmp.open_echo(address).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("asked_as", [icmp.ECHO_REQUEST, host_icmp.ECHO_REQUEST6], ids=["ICMP", "ICMPv6"])
@pytest.mark.parametrize(
    "address, answer", [("127.0.0.1", icmp.ECHO_REPLY), ("::1", host_icmp.ECHO_REPLY6)], ids=["IPv4", "IPv6"]
)
def test_the_kernel_answers_a_request_and_keeps_number_and_payload(
    address: str, answer: int, asked_as: int
) -> None:
    if not is_allowed(address):
        pytest.skip("no unprivileged ICMP sockets here")
    with host_icmp.open_echo(address) as sock:
        host_icmp.set_path(sock, 1, dont_fragment=True)
        message = memoryview(icmp.build_echo(asked_as, 0x1234, 7, b"payload"))
        sock.send(host_icmp.request_for(sock, message))
        sock.setblocking(True)
        sock.settimeout(2)
        reply = sock.recv(1000)
        assert reply[0] == answer
        assert reply[6:] == b"\0\x07payload"
        assert host_icmp.reply_in(memoryview(reply), 0) == 0
        assert list(host_icmp.errors(sock, 10)) == []
        assert host_icmp.path_mtu(sock) > 1500


class Queue:
    """A socket whose error queue has the given messages."""

    def __init__(self, *messages: tuple[int, int, bytes]) -> None:
        self.messages = [[message] for message in messages]

    def recvmsg(self, *_: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        if not self.messages:
            raise BlockingIOError
        return bytes(6) + b"\x01\x02", self.messages.pop(0), 0, None


def extended(origin: int, kind: int, code: int, mtu: int, offender: bytes) -> bytes:
    """struct sock_extended_err, and the address of the offender."""
    return struct.pack("=IBBBBII", 0, origin, kind, code, 0, mtu, 0) + offender


@pytest.mark.skipif(sys.platform != "linux", reason="the numbers are Linux's")
def test_errors_of_both_families_have_the_types_of_icmp() -> None:
    router, router6 = ip.parse("192.0.2.1"), ip.parse("2001:db8::1")
    name = struct.pack("=H2x4s8x", socket.AF_INET, ip.ipv4_bytes(router))
    name6 = struct.pack("=H6x16s4x", socket.AF_INET6, router6.to_bytes(16, "big"))
    queue = Queue(
        (socket.IPPROTO_IP, 11, extended(2, 11, 0, 0, name)),
        (socket.IPPROTO_IPV6, 25, extended(3, 3, 0, 0, name6)),
        (socket.IPPROTO_IPV6, 25, extended(3, 2, 0, 1280, name6)),
        (socket.IPPROTO_IPV6, 25, extended(3, 1, 4, 0, name6)),
        # Not from ICMPv6, cut short, and another kind of message.
        (socket.IPPROTO_IPV6, 25, extended(1, 2, 0, 1280, name6)),
        (socket.IPPROTO_IPV6, 25, extended(3, 2, 0, 1280, name6[:20])),
        (socket.IPPROTO_IPV6, 50, extended(3, 2, 0, 1280, name6)),
    )
    assert list(host_icmp.errors(queue, 10)) == [  # type: ignore[arg-type]
        (icmp.TIME_EXCEEDED, 0, 0, router, 0x0102),
        (icmp.TIME_EXCEEDED, 0, 0, router6, 0x0102),
        (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, 1280, router6, 0x0102),
        (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE, 0, router6, 0x0102),
    ]


# --- systems on which a socket hears of the replies to all pingers --------------------------


@pytest.mark.parametrize("before", [0, 1, 0x1234, 0xFFFF])
@pytest.mark.parametrize("after", [1, 0x1234, 0xFFFE, 0xFFFF])
@pytest.mark.parametrize("payload", [b"", b"payload", b"\xff" * 1000])
def test_another_identifier_gets_its_own_checksum(before: int, after: int, payload: bytes) -> None:
    message = icmp.build_echo(icmp.ECHO_REQUEST, before, 7, payload)
    changed = host_icmp.with_ident(memoryview(message), after)
    assert changed == icmp.build_echo(icmp.ECHO_REQUEST, after, 7, payload)


def test_the_corner_case_of_rfc_1624() -> None:
    # Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000 and not 0xFFFF.
    changed = host_icmp.with_ident(memoryview(bytes.fromhex("0800dd2f55550001")), 0x3285)
    assert changed == bytes.fromhex("0800000032850001")


@pytest.mark.parametrize("options", [b"", bytes(8)], ids=["plain", "with options"])
def test_a_reply_is_found_behind_an_ip_header(options: bytes) -> None:
    reply = icmp.build_echo(icmp.ECHO_REPLY, 7, 1, b"payload")
    header = bytes([0x45 + len(options) // 4]) + bytes(19) + options
    assert host_icmp.reply_in(memoryview(header + reply), 7) == len(header)
    assert host_icmp.reply_in(memoryview(reply), 7) == 0
    assert host_icmp.reply_in(memoryview(reply), 0) == 0


def test_what_is_no_reply_to_this_socket_is_none() -> None:
    reply = icmp.build_echo(icmp.ECHO_REPLY, 7, 1, b"")
    for packet in (
        icmp.build_echo(icmp.ECHO_REPLY, 8, 1, b""),
        icmp.build_echo(icmp.ECHO_REQUEST, 7, 1, b""),
        reply[:7],
        b"",
        b"\x45",
        b"\x4f" + bytes(30),
        b"\x45" + bytes(19) + reply[:7],
    ):
        assert host_icmp.reply_in(memoryview(packet), 7) == -1, packet
