"""Connects the datagram sockets that guests have reached, for ingress, which may not."""

import socket
from contextlib import suppress

from pipeline.control.workers import Channel, RequestError
from pipeline.ipc import messages


def connect(channel: Channel, ask: messages.ConnectEvent, sock: socket.socket) -> None:
    """Connect a datagram socket that the worker behind the channel has too, and tell it the result.

    The system says who sent the first datagram. So a worker that a guest has taken over cannot choose the
    address.
    """
    error = None
    with sock:
        try:
            sock.connect(sock.recvfrom(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)[1])
        except OSError as failure:
            error = (failure.strerror or str(failure)).lower()
    with suppress(RequestError):  # the worker is gone
        channel.send(messages.Connected(ask.number, error))
