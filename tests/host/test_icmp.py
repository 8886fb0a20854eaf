"""Unprivileged ICMP sockets on the loopback, where the system allows them."""

import pytest

from pipeline.host import icmp as host_icmp
from pipeline.wire import icmp


def is_allowed() -> bool:
    try:
        host_icmp.open_echo("127.0.0.1").close()
    except OSError:
        return False
    return True


allowed = pytest.mark.skipif(not is_allowed(), reason="no unprivileged ICMP sockets here")


@allowed
def test_the_kernel_answers_a_request_and_keeps_number_and_payload() -> None:
    with host_icmp.open_echo("127.0.0.1") as sock:
        host_icmp.set_path(sock, 1, dont_fragment=True)
        sock.send(icmp.build_echo(icmp.ECHO_REQUEST, 0x1234, 7, b"payload"))
        sock.setblocking(True)
        sock.settimeout(2)
        reply = sock.recv(1000)
        assert reply[0] == host_icmp.ECHO_REPLY
        assert reply[6:] == b"\0\x07payload"
        assert list(host_icmp.errors(sock, 10)) == []


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
