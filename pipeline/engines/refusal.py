"""What the gateway sends a guest whose connection or datagram failed: a reset or ICMP error for each errno.

The guest's stack turns the answer back into the errno of the host (RFC 1122 section 4.2.3.9, RFC 9293 section
3.10.7.3). In SYN-SENT, Linux ends the attempt at any destination-unreachable message that quotes its sequence
number.

=======================================  ==================================  =====================
errno of the host's connect()            answer                              the guest's program
=======================================  ==================================  =====================
ECONNREFUSED, ECONNRESET, EPIPE          reset                               ECONNREFUSED
ENETUNREACH, ENETDOWN, EAFNOSUPPORT      ICMP 3/0 network unreachable        ENETUNREACH
EHOSTUNREACH, EHOSTDOWN                  ICMP 3/1 host unreachable           EHOSTUNREACH
EACCES, EPERM                            ICMP 3/13 prohibited                EHOSTUNREACH
ETIMEDOUT, and lack of resources         none: the guest repeats its SYN     ETIMEDOUT, or success
=======================================  ==================================  =====================

When the host has no port, memory or descriptor left, the gateway sends nothing. That may be temporary, and
the guest sends its SYN again.
"""

import errno
from typing import Final

from pipeline.wire import icmp

RESET: Final = -1
SILENCE: Final = -2

_ANSWERS: Final = {
    errno.ECONNREFUSED: RESET,
    errno.ECONNRESET: RESET,
    errno.EPIPE: RESET,
    errno.ENETUNREACH: icmp.NET_UNREACHABLE,
    errno.EAFNOSUPPORT: icmp.NET_UNREACHABLE,
    errno.ENETDOWN: icmp.NET_UNREACHABLE,
    errno.EHOSTUNREACH: icmp.HOST_UNREACHABLE,
    errno.EHOSTDOWN: icmp.HOST_UNREACHABLE,
    errno.EACCES: icmp.ADMINISTRATIVELY_PROHIBITED,
    errno.EPERM: icmp.ADMINISTRATIVELY_PROHIBITED,
}


_HARD_ERRORS: Final = frozenset(
    {
        icmp.PROTOCOL_UNREACHABLE,
        icmp.PORT_UNREACHABLE,
        icmp.NET_PROHIBITED,
        icmp.HOST_PROHIBITED,
        icmp.ADMINISTRATIVELY_PROHIBITED,
    }
)


def is_hard_error(code: int) -> bool:
    """Whether a guest's destination-unreachable message with this code about our SYN is final.

    RFC 1122 section 4.2.3.9 says that some codes are. The others are as in Linux: firewalls that reject a
    connection send them.
    """
    return code in _HARD_ERRORS


def answer_to_syn(number: int) -> int:
    """The answer for the errno of connect(): RESET, SILENCE, or the code of an ICMP unreachable message."""
    return _ANSWERS.get(number, SILENCE)


def answer_to_datagram(number: int) -> int:
    """The answer for the errno of a UDP socket. "Refused" is a closed port (RFC 1122 section 4.1.3.1)."""
    answer = answer_to_syn(number)
    return icmp.PORT_UNREACHABLE if answer == RESET else answer
