"""Whether this host has an IPv6 route: yes, no, or nobody can say."""

import errno
import socket
from typing import Any

import pytest

from pipeline.system import ipv6_route, outbound


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        (errno.ENETUNREACH, False),
        (errno.EADDRNOTAVAIL, False),
        (errno.EAFNOSUPPORT, False),
        (errno.EMFILE, None),
        (errno.ENOBUFS, None),
    ],
)
def test_an_error_means_no_or_nothing(
    monkeypatch: pytest.MonkeyPatch, number: int, answer: bool | None
) -> None:
    def fail(*_: Any, **__: Any) -> socket.socket:
        raise OSError(number, "no")

    monkeypatch.setattr(socket, "socket", fail)
    assert ipv6_route.exists() is answer


def test_guests_that_are_pinned_to_an_ipv4_address_have_no_route() -> None:
    assert ipv6_route.exists(outbound.for_guests("127.0.0.9", "")) is False
