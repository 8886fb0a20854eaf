"""The handshake with a SOCKS5 proxy (RFC 1928), with a user and a password if it wants them (RFC 1929).

A request has one destination: the name, if one is known, else the address.
"""

import errno
from collections.abc import Callable
from typing import Final

from pipeline.engines.proxy.handshake import Destination, Failure, Handshake
from pipeline.engines.proxy.via import Via
from pipeline.wire import ip, socks5

_REPLIES: Final = {
    1: Failure("the proxy reports a general failure"),
    2: Failure("the proxy's rules do not allow the connection", errno.EACCES),
    3: Failure("the proxy cannot reach the network", errno.ENETUNREACH),
    4: Failure("the proxy cannot reach the host", errno.EHOSTUNREACH),
    5: Failure("the destination has refused the proxy's connection", errno.ECONNREFUSED),
    6: Failure("the proxy's packets were too long on their way (TTL expired)", errno.ETIMEDOUT),
    7: Failure("the proxy does not know the command CONNECT"),
    8: Failure("the proxy does not know this kind of address"),
}
_NO_METHOD: Final = Failure("the proxy accepts no way to log in that the rule has", errno.EACCES)
_DENIED: Final = Failure("the proxy does not accept the user or the password", errno.EACCES)


class Socks5(Handshake):
    """One handshake. The greeting is sent first; each answer leads to the next message."""

    SPEAKS = "SOCKS5"

    def __init__(self, via: Via, destination: Destination) -> None:
        super().__init__()
        self._via = via
        self._destination = destination
        self._next: Callable[[], bool] = self._on_method
        methods = [socks5.NO_CREDENTIALS]
        if via.user is not None:
            methods.append(socks5.USER_AND_PASSWORD)
        self._methods = frozenset(methods)
        self.to_send = socks5.build_greeting(bytes(methods))

    def _step(self) -> bool:
        return self._next()

    def _on_method(self) -> bool:
        if len(self._got) < socks5.ANSWER_LEN:
            return False
        method = socks5.read_answer(self._take(socks5.ANSWER_LEN), socks5.VERSION)
        if method not in self._methods:
            self.failure = _NO_METHOD
        elif method == socks5.USER_AND_PASSWORD:
            self.to_send += socks5.build_credentials(self._via.user or b"", self._via.password)
            self._next = self._on_credentials
        else:
            self._ask()
        return True

    def _on_credentials(self) -> bool:
        if len(self._got) < socks5.ANSWER_LEN:
            return False
        if socks5.read_answer(self._take(socks5.ANSWER_LEN), socks5.CREDENTIALS_VERSION):
            self.failure = _DENIED
        else:
            self._ask()
        return True

    def _ask(self) -> None:
        name, port = self._destination.name, self._destination.port
        if name and len(name) <= socks5.MAX_TEXT:
            self.to_send += socks5.build_connect(name.encode("ascii"), port, is_name=True)
        else:
            self.to_send += socks5.build_connect(_packed(self._destination.address), port, is_name=False)
        self._next = self._on_reply

    def _on_reply(self) -> bool:
        # The address in a refusal is often missing, so its code alone counts.
        if len(self._got) >= socks5.ANSWER_LEN:
            socks5.read_answer(self._got, socks5.VERSION)
            code = socks5.reply_code(self._got)
            if code != socks5.SUCCEEDED:
                self.failure = _REPLIES.get(code, Failure(f"the proxy reports the unknown failure {code}"))
                return False
        end = socks5.reply_end(self._got)
        if end:
            self._take(end)
            self.done = True
        return False


def _packed(address: int) -> bytes:
    return ip.ipv4_bytes(address) if ip.is_ipv4(address) else address.to_bytes(16, "big")
