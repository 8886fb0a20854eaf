"""States of upstream name servers: which of them are silent, and which do not understand EDNS.

**Silent servers.** A server that did not answer is asked only after the others, for AVOID_SECONDS.

**Servers without EDNS.** Some servers drop or refuse a question with an OPT record, but answer the plain one.
Such a server is marked, and is asked without OPT for a while. But one guest's names must not take DNSSEC from
all other guests that way. So the time depends on the server's answer to the question with OPT:

- FORMERR, NOTIMP and BADVERS report that the server does not understand it. They mark it for PLAIN_SECONDS.
- Silence, SERVFAIL and REFUSED may also mean a lost packet or a bad name. They do not mark a server that has
  answered with EDNS in the last PROOF_SECONDS. They mark any other server for DOUBT_SECONDS. Each further
  failure after such a mark doubles the time, up to PLAIN_SECONDS. A question with the DO bit ignores such a
  mark.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.host.name_files import Server

AVOID_SECONDS: Final = 10.0
"""How long a server that did not answer is asked only after the others."""
PLAIN_SECONDS: Final = 900.0
"""How long a server that reported that it does not understand EDNS is asked without it."""
DOUBT_SECONDS: Final = 30.0
"""How long, at first, a server that answered only the plain question is asked without EDNS."""
PROOF_SECONDS: Final = 60.0
"""How long a server that has answered with EDNS counts as one that understands it."""


class _Mark(NamedTuple):
    """A server is asked without EDNS until then. ``sure``: it reported that it does not understand EDNS."""

    until: float
    seconds: float
    sure: bool


class ServerStates:
    """The state of each server that was asked."""

    def __init__(self) -> None:
        self._avoid: dict[Server, float] = {}
        self._plain: dict[Server, _Mark] = {}
        """Servers to ask without EDNS. An expired mark stays until EDNS works, since the next is longer."""
        self._proof: dict[Server, float] = {}
        """Servers that have answered with EDNS, and until when that counts."""

    def forget(self) -> None:
        """Forget all states: the host is in another network."""
        self._avoid.clear()
        self._plain.clear()
        self._proof.clear()

    # --- silence --------------------------------------------------------------------------

    def best_first(self, servers: Sequence[Server], now: float) -> list[Server]:
        """The servers. Those that did not answer in the last AVOID_SECONDS come last."""
        return sorted(servers, key=lambda server: self._avoid.get(server, now) > now)

    def on_silence(self, server: Server, now: float) -> None:
        """The server did not answer in time, or cannot be reached."""
        self._avoid[server] = now + AVOID_SECONDS

    def on_answer(self, server: Server) -> None:
        """The server has answered."""
        self._avoid.pop(server, None)

    # --- EDNS -----------------------------------------------------------------------------

    def is_plain(self, server: Server, now: float, *, dnssec: bool) -> bool:
        """Whether to ask the server without EDNS. dnssec: the question has the DO bit."""
        mark = self._plain.get(server)
        return mark is not None and mark.until > now and (mark.sure or not dnssec)

    def is_proven(self, server: Server, now: float) -> bool:
        """Whether the server has answered with EDNS in the last PROOF_SECONDS."""
        return self._proof.get(server, now) > now

    def on_edns_answer(self, server: Server, now: float) -> None:
        """The server has answered a question with EDNS."""
        self._proof[server] = now + PROOF_SECONDS
        self._plain.pop(server, None)

    def on_plain_answer(self, server: Server, now: float, *, confused: bool) -> None:
        """The server has answered the plain question, after it did not answer the one with EDNS.

        confused: it reported that it does not understand EDNS.
        """
        if confused:
            self._plain[server] = _Mark(now + PLAIN_SECONDS, PLAIN_SECONDS, sure=True)
            return
        last = self._plain.get(server)
        # While a mark holds, further failures do not count.
        if self.is_proven(server, now) or (last is not None and last.until > now):
            return
        before = 0.0 if last is None or last.sure else last.seconds
        seconds = min(max(2 * before, DOUBT_SECONDS), PLAIN_SECONDS)
        self._plain[server] = _Mark(now + seconds, seconds, sure=False)
