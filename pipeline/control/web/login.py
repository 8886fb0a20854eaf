"""Who may use the web page: a token that works once, then a session.

The log shows the page's address with a token of 256 bits. The token stands after a ``#``. So the browser does
not send it with a request, and a program that fetches addresses from a log does not use it up. The page
posts it, and gets a session. From then on the token is void, and the log shows another one for the next
browser.

A session has two secrets, and each request needs both:

- a cookie that scripts cannot read (HttpOnly), and that no page of another site can use (SameSite=Strict).
  But cookies do not know ports: each server on the same address gets it.
- a key that the page keeps in the storage of its origin, which knows the port. The page sends it as a bearer
  token. A browser never sends that on its own, so a foreign page cannot forge a request.

A session ends after IDLE seconds without a request, at the end of the daemon, and when MAX_SESSIONS newer
ones were in use.
"""

import hmac
import secrets
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

MAX_SESSIONS: Final = 16
IDLE: Final = 12 * 3600.0
"""Seconds."""
SECRET_BYTES: Final = 32


class Session(NamedTuple):
    """The two secrets of a session."""

    cookie: str
    key: str


class Login:
    """The token for the next browser, and the sessions of those that had one."""

    def __init__(
        self, port: int, on_token: Callable[[str], None], clock: Callable[[], float] = monotonic
    ) -> None:
        """port: of the page. on_token: gets each token; renew() makes the first one. clock: seconds."""
        self.cookie_name = f"gvtap-{port}"
        """With the port, since all servers on an address share its cookies."""
        self._on_token = on_token
        self._clock = clock
        self._token = b""
        self._sessions: dict[str, tuple[bytes, float]] = {}
        """Cookie -> key and time of the last request, in the order of use."""

    def renew(self) -> None:
        """Make a new token. The one before is void."""
        token = secrets.token_urlsafe(SECRET_BYTES)
        self._token = token.encode()
        self._on_token(token)

    def exchange(self, token: str) -> Session | None:
        """A session for the token. None if it is wrong, or was used before."""
        if not self._token or not hmac.compare_digest(_bytes(token), self._token):
            return None
        session = Session(secrets.token_urlsafe(SECRET_BYTES), secrets.token_urlsafe(SECRET_BYTES))
        self._forget_idle()
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[session.cookie] = session.key.encode(), self._clock()
        self.renew()
        return session

    def is_valid(self, cookie: str, key: str) -> bool:
        """Whether these are the secrets of a session. If so, it lives on."""
        self._forget_idle()
        # The cookie is as long as a token: a guess is hopeless, whatever the time of a look-up tells.
        found = self._sessions.get(cookie)
        if found is None or not hmac.compare_digest(_bytes(key), found[0]):
            return False
        del self._sessions[cookie]
        self._sessions[cookie] = found[0], self._clock()
        return True

    def end(self, cookie: str) -> None:
        """End a session. One that does not exist is not an error."""
        self._sessions.pop(cookie, None)

    def _forget_idle(self) -> None:
        latest = self._clock() - IDLE
        while self._sessions:
            oldest = next(iter(self._sessions))
            if self._sessions[oldest][1] >= latest:
                return
            del self._sessions[oldest]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
