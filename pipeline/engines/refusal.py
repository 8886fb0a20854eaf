"""How a guest learns that its connection or datagram cannot be: what a host errno becomes on the wire.

The guest's stack turns the answer back into the errno that the host saw, at once, as if the
guest stood where the daemon stands (RFC 1122 4.2.3.9, RFC 9293 3.10.7.3; Linux ends an attempt
in SYN-SENT at any destination-unreachable message that quotes its sequence number):

=======================================  ==================================  =====================
errno of the host's connect()            answer                              the guest's program
=======================================  ==================================  =====================
ECONNREFUSED, ECONNRESET, EPIPE          reset                               ECONNREFUSED
ENETUNREACH, ENETDOWN                    ICMP 3/0 network unreachable        ENETUNREACH
EHOSTUNREACH, EHOSTDOWN                  ICMP 3/1 host unreachable           EHOSTUNREACH
EACCES, EPERM                            ICMP 3/13 prohibited                EHOSTUNREACH
ETIMEDOUT, and what the host lacks       none: the guest repeats its SYN     ETIMEDOUT, or success
=======================================  ==================================  =====================

Silence is also the answer when the host is out of ports, memory or descriptors: that may pass,
and the guest's SYN comes again.
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
    """Whether an unreachable message of a guest about our SYN leaves no hope.

    RFC 1122 4.2.3.9 and, for the codes that it does not know, what Linux takes for final. A guest's
    firewall that rejects answers with one of them.
    """
    return code in _HARD_ERRORS


def answer_to_syn(number: int) -> int:
    """RESET, SILENCE, or the code of the ICMP destination-unreachable message due for a connect()'s errno."""
    return _ANSWERS.get(number, SILENCE)


def answer_to_datagram(number: int) -> int:
    """The same for a UDP socket's errno: refused means that the port is closed (RFC 1122 4.1.3.1)."""
    answer = answer_to_syn(number)
    return icmp.PORT_UNREACHABLE if answer == RESET else answer
