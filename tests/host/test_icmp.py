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


pytestmark = pytest.mark.skipif(not is_allowed(), reason="no unprivileged ICMP sockets here")


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
