"""The source of sockets for guests' traffic: what is bound, and the checks at the start."""

import errno
import socket
from typing import Any

import pytest

from pipeline.host import tcp
from pipeline.system import outbound
from pipeline.system.outbound import Outbound, OutboundError

ELSEWHERE = "192.0.2.1"
"""No packet goes there: the sockets of these tests are only bound."""


def test_without_settings_there_is_nothing_to_bind() -> None:
    assert outbound.of("", "") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_a_socket_to_the_hosts_loopback_is_not_bound(address: str) -> None:
    made = Outbound("127.0.0.9", "lo")
    assert not made.is_for(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        made.bind(sock, address)
        assert sock.getsockname() == ("0.0.0.0", 0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b""


def test_a_tcp_socket_gets_its_port_only_when_it_connects() -> None:
    made = Outbound("127.0.0.9", "")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        made.bind(sock, ELSEWHERE)
        assert sock.getsockname() == ("127.0.0.9", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        made.bind(sock, ELSEWHERE)
        assert sock.getsockname()[0] == "127.0.0.9"
        assert sock.getsockname()[1]


def test_an_interface_is_set_on_sockets_of_both_families_and_an_address_on_those_of_ipv4() -> None:
    made = Outbound("127.0.0.9", "lo")
    for family, name in ((socket.AF_INET, "127.0.0.9"), (socket.AF_INET6, "::")):
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            made.bind(sock, ELSEWHERE)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b"lo\0"
            assert sock.getsockname()[0] == name


@pytest.mark.parametrize(("address", "interface"), [(ELSEWHERE, ""), ("", "no-such0")])
def test_an_address_or_interface_that_has_gone_looks_like_a_network_that_is_down(
    address: str, interface: str
) -> None:
    made = Outbound(address, interface)
    assert tcp.connect("198.51.100.1", 9, made) == (None, errno.ENETDOWN)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(OSError, match="is gone") as caught,
    ):
        made.bind(sock, "198.51.100.1")
    assert caught.value.errno == errno.ENETDOWN


# --- at the start -------------------------------------------------------------------------


def test_what_this_host_has_is_accepted() -> None:
    outbound.check("", "")
    outbound.check("127.0.0.9", "lo")


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(OutboundError) as caught:
        outbound.check(ELSEWHERE, "")
    words = "cannot assign requested address (allowed: an address of this host)"
    assert str(caught.value) == f"outbound-address {ELSEWHERE}: {words}"


def test_an_unknown_interface_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(OutboundError, match=r"no-such0: there is no such .*allowed: .*\blo\b"):
        outbound.check("", "no-such0")


def test_a_process_that_may_not_bind_to_an_interface_is_told_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unprivileged(socket.socket):
        def setsockopt(self, *_: Any) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(outbound.socket, "socket", Unprivileged)
    with pytest.raises(OutboundError) as caught:
        outbound.check("", "lo")
    assert str(caught.value) == (
        "outbound-interface lo: this process may not bind a socket to an interface "
        "(allowed: with CAP_NET_RAW, or for all from Linux 5.7 on)"
    )


def test_a_system_without_such_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "_BIND_TO_DEVICE", -1)
    with pytest.raises(OutboundError, match=r"cannot bind a socket to an interface \(allowed: on Linux\)"):
        outbound.check("", "lo")


@pytest.mark.parametrize(
    ("address", "interface", "leaves"), [("127.0.0.9", "", False), ("127.0.0.9", "lo", True)]
)
def test_with_an_ipv4_address_alone_no_ipv6_flow_of_a_guest_leaves_the_host(
    address: str, interface: str, leaves: bool
) -> None:
    made = outbound.for_guests(address, interface)
    assert made is not None
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        made.bind(sock, "::1")
        if leaves:
            made.bind(sock, "2001:db8::1")
            return
        with pytest.raises(OSError, match="the outbound address is of IPv4") as refused:
            made.bind(sock, "2001:db8::1")
        assert refused.value.errno == errno.ENETUNREACH
