"""Links of hyperkit and vpnkit: a handshake, then a stream of frames with a 2-byte length before each.

wire.framing knows the three messages of the handshake (hello, command, reply). The worker's loop polls each
connection, so a silent client does not delay others. It is closed after HANDSHAKE_TIMEOUT. A client that
sends anything else is closed and counted. The bytes after the command are frames.
"""

import os
import socket
from collections.abc import Mapping
from time import monotonic
from typing import Final

from pipeline.links.accepting import AcceptingListener
from pipeline.links.addresses import words_of
from pipeline.links.base import LinkClosed
from pipeline.links.listener import READABLE
from pipeline.links.stream import StreamLink
from pipeline.wire import ethernet, framing
from pipeline.wire.errors import WireError

PROTOCOL: Final = "vpnkit"
HANDSHAKE_TIMEOUT: Final = 10.0
MAX_HANDSHAKES: Final = 64
"""Connections that may be in their handshake at a time. A further one is closed."""
MAX_MADE_UP: Final = 1024
"""Clients without a configured MAC address whose random address is remembered."""

_FAILED: Final = "link_handshake_failed"


class _Handshake:
    """One connection whose handshake is not complete."""

    __slots__ = ("buffer", "deadline", "greeted", "sock")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.buffer = b""
        self.greeted = False


class VpnkitListener(AcceptingListener):
    """A listening stream socket for vpnkit's protocol."""

    def __init__(
        self, sock: socket.socket, macs: Mapping[str, bytes] | None = None, once: bool = False
    ) -> None:
        """macs: the configured MAC addresses, by the client's UUID. Other clients get a random one."""
        super().__init__(PROTOCOL, sock, once)
        self._macs = dict(macs or {})
        self._made_up: dict[str, bytes] = {}
        self._pending: dict[socket.socket, _Handshake] = {}

    def deadline(self) -> float:
        """See Listener.deadline."""
        # All handshakes may take equally long, so the first one is due first.
        oldest = next(iter(self._pending.values()), None)
        return min(super().deadline(), oldest.deadline if oldest is not None else float("inf"))

    def on_timer(self, now: float) -> None:
        """See Listener.on_timer."""
        super().on_timer(now)
        for handshake in [h for h in self._pending.values() if h.deadline <= now]:
            self._give_up(handshake, "vpnkit handshake: the client was silent")

    def close(self) -> None:
        """See Listener.close."""
        for handshake in list(self._pending.values()):
            self._forget(handshake)
            handshake.sock.close()
        super().close()

    def _accepted(self, sock: socket.socket) -> None:
        assert self._poller is not None
        if len(self._pending) >= MAX_HANDSHAKES:
            sock.close()
            self._owner.refuse(self, "vpnkit handshake: too many clients at once", _FAILED)
            return
        sock.setblocking(False)
        handshake = _Handshake(sock, monotonic() + HANDSHAKE_TIMEOUT)
        self._pending[sock] = handshake
        self._poller.register(sock.fileno(), READABLE, lambda _events: self._on_bytes(handshake))

    def _on_bytes(self, handshake: _Handshake) -> None:
        wanted = framing.VPNKIT_COMMAND_LEN if handshake.greeted else framing.VPNKIT_HELLO_LEN
        try:
            # Read no more than wanted. The frames after it stay in the socket for the link.
            part = handshake.sock.recv(wanted - len(handshake.buffer))
            if not part:
                raise LinkClosed("the client left")
            handshake.buffer += part
            if len(handshake.buffer) < wanted:
                return
            record, handshake.buffer = handshake.buffer, b""
            if not handshake.greeted:
                self._answer(handshake, framing.parse_vpnkit_hello(record))
                handshake.greeted = True
                return
            mac = self._mac(framing.parse_vpnkit_command(record))
            self._answer(handshake, framing.vpnkit_reply(self._resources.mtu, mac))
        except BlockingIOError:
            return
        except OSError as error:
            self._give_up(handshake, f"vpnkit handshake: {words_of(error)}")
            return
        except WireError:
            self._give_up(handshake, "vpnkit handshake: not a vpnkit client")
            return
        except LinkClosed as error:
            self._give_up(handshake, f"vpnkit handshake: {error}")
            return
        self._forget(handshake)
        resources = self._resources
        link = StreamLink(handshake.sock, framing.LE16, resources.pool, resources.slots)
        self._attach(link, handshake.sock)

    def _answer(self, handshake: _Handshake, record: bytes) -> None:
        try:
            sent = handshake.sock.send(record)
        except BlockingIOError:
            sent = 0
        if sent < len(record):
            # The answers are a few hundred bytes in all. If they do not fit, the client does not read.
            raise LinkClosed("the client does not read")

    def _mac(self, uuid: str) -> bytes:
        mac = self._macs.get(uuid) or self._made_up.get(uuid)
        if mac is None:
            mac = ethernet.local_mac(os.urandom(ethernet.MAC_LEN))
            if len(self._made_up) >= MAX_MADE_UP:
                del self._made_up[next(iter(self._made_up))]
            # If this client connects again, it gets the same MAC address, and so the same DHCP lease.
            self._made_up[uuid] = mac
        return mac

    def _forget(self, handshake: _Handshake) -> None:
        assert self._poller is not None
        self._poller.unregister(handshake.sock.fileno())
        del self._pending[handshake.sock]

    def _give_up(self, handshake: _Handshake, text: str) -> None:
        self._forget(handshake)
        handshake.sock.close()
        self._owner.refuse(self, text, _FAILED)
