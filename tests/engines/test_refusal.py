"""What a host errno becomes on the guest's wire."""

import errno

import pytest

from pipeline.engines import refusal
from pipeline.wire import icmp


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE])
def test_a_refused_connection_is_reset_and_a_closed_port_unreachable(number: int) -> None:
    assert refusal.answer_to_syn(number) == refusal.RESET
    assert refusal.answer_to_datagram(number) == icmp.PORT_UNREACHABLE


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENETUNREACH, icmp.NET_UNREACHABLE),
        (errno.ENETDOWN, icmp.NET_UNREACHABLE),
        (errno.EHOSTUNREACH, icmp.HOST_UNREACHABLE),
        (errno.EHOSTDOWN, icmp.HOST_UNREACHABLE),
        (errno.EACCES, icmp.ADMINISTRATIVELY_PROHIBITED),
        (errno.EPERM, icmp.ADMINISTRATIVELY_PROHIBITED),
    ],
)
def test_an_unreachable_destination_is_reported_by_icmp(number: int, code: int) -> None:
    assert refusal.answer_to_syn(number) == code
    assert refusal.answer_to_datagram(number) == code


@pytest.mark.parametrize("number", [0, errno.ETIMEDOUT, errno.EMFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL])
def test_what_may_pass_is_not_answered_so_that_the_guest_tries_again(number: int) -> None:
    assert refusal.answer_to_syn(number) == refusal.SILENCE
    assert refusal.answer_to_datagram(number) == refusal.SILENCE


@pytest.mark.parametrize(
    ("code", "final"),
    [
        (icmp.PORT_UNREACHABLE, True),
        (icmp.PROTOCOL_UNREACHABLE, True),
        (icmp.ADMINISTRATIVELY_PROHIBITED, True),
        (icmp.NET_UNREACHABLE, False),
        (icmp.HOST_UNREACHABLE, False),
        (icmp.FRAGMENTATION_NEEDED, False),
        (255, False),
    ],
)
def test_a_guests_answer_to_our_syn_is_final_or_may_pass(code: int, final: bool) -> None:
    assert refusal.is_hard_error(code) == final
