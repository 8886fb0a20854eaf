"""States of upstream name servers: which of them are silent, and which do not understand EDNS.

**Silent servers.** A server that did not answer is asked only after the others, for AVOID_SECONDS.

**Servers without EDNS.** Some drop a question with an OPT record, or refuse it, and answer the plain one.
Such a server is marked, and is asked without OPT for a while. One guest's names must not take DNSSEC from
all other guests that way. So it depends on what the server did how long it is marked:

- FORMERR, NOTIMP and BADVERS say that it does not understand: PLAIN_SECONDS.
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
"""How long a server that does not understand EDNS is asked without."""
DOUBT_SECONDS: Final = 30.0
"""How long, at first, if it did not say so but answered only the plain question."""
PROOF_SECONDS: Final = 60.0
"""How long a server that has answered with EDNS is taken to know it."""


class _Mark(NamedTuple):
    """A server is asked without EDNS until then; ``sure``: it said itself that it does not understand."""

    until: float
    seconds: float
    sure: bool


class ServerStates:
    """The state of each server that was asked."""

    def __init__(self) -> None:
        self._avoid: dict[Server, float] = {}
        self._plain: dict[Server, _Mark] = {}
        """Servers to ask without EDNS. A mark that is over stays until EDNS works: the next one is longer."""
        self._proof: dict[Server, float] = {}
        """Servers that have answered with EDNS, and until when they are taken to know it."""

    def forget(self) -> None:
        """Forget all states: the host is in another network."""
        self._avoid.clear()
        self._plain.clear()
        self._proof.clear()

    # --- silence --------------------------------------------------------------------------

    def best_first(self, servers: Sequence[Server], now: float) -> list[Server]:
        """The servers, those last that did not answer lately."""
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
        """Whether the server has answered with EDNS lately."""
        return self._proof.get(server, now) > now

    def on_edns_answer(self, server: Server, now: float) -> None:
        """The server has answered a question with EDNS."""
        self._proof[server] = now + PROOF_SECONDS
        self._plain.pop(server, None)

    def on_plain_answer(self, server: Server, now: float, *, confused: bool) -> None:
        """The server has answered the plain question, after one with EDNS that did not help.

        confused: it said that it does not understand EDNS.
        """
        if confused:
            self._plain[server] = _Mark(now + PLAIN_SECONDS, PLAIN_SECONDS, sure=True)
            return
        last = self._plain.get(server)
        # Of the failures of one time, only the first counts.
        if self.is_proven(server, now) or (last is not None and last.until > now):
            return
        before = 0.0 if last is None or last.sure else last.seconds
        seconds = min(max(2 * before, DOUBT_SECONDS), PLAIN_SECONDS)
        self._plain[server] = _Mark(now + seconds, seconds, sure=False)
