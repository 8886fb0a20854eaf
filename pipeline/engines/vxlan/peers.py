"""Which hosts understand trains (pipeline.wire.vxlan_train). A host is asked when there is use for it.

Nothing is configured, and a host says nothing unasked. A host is *in use* in a tick if something went to it
that a train could carry:

============  ===========================================================  =============================
state         what happens                                                 becomes
============  ===========================================================  =============================
unknown       its frames go as plain VXLAN. While in use it is asked once  takes trains, by an answer
              a tick, and after 3 questions with pauses of 2, 4, ... 64
              ticks
takes trains  while in use it is asked once a tick                         unknown, after 3 questions
                                                                           without an answer
============  ===========================================================  =============================

So an idle link sends no questions, and a host that another program has taken over gets at most a few
seconds of trains that it drops. An answer counts only with the nonce of the last question. So nobody can
forge one without seeing the questions.

The engine reads no clock: the owner calls questions() once a tick while ``in_use`` is set.
"""

from typing import Final

MISSES: Final = 3
"""Questions in a row without an answer after which a host is unknown."""
LONGEST_PAUSE: Final = 64
"""Ticks between two questions to a host that never answers."""


class _Peer:
    """What is known of one host."""

    __slots__ = ("is_used", "misses", "nonce", "pause", "takes", "wait")

    def __init__(self) -> None:
        self.takes = False
        self.is_used = False
        """Whether there was something for a train since the last tick."""
        self.nonce = 0
        """That of the question without an answer; 0 for none."""
        self.misses = 0
        self.pause = 1
        self.wait = 0
        """Ticks until the next question."""


class Peers:
    """All hosts, by their numbers."""

    def __init__(self) -> None:
        self._peers: dict[int, _Peer] = {}
        self.in_use = False
        """Whether questions() has something to do."""

    def add(self, host: int) -> None:
        """There is another host."""
        self._peers[host] = _Peer()

    def remove(self, host: int) -> None:
        """The host is gone."""
        del self._peers[host]

    def takes_trains(self, host: int) -> bool:
        """Whether the frame that goes to this host now, which a train could carry, may travel so."""
        peer = self._peers[host]
        peer.is_used = True
        self.in_use = True
        return peer.takes

    def questions(self, nonce: int) -> list[int]:
        """A tick has passed: the hosts to be asked with this nonce, which is not 0 and was never used."""
        self.in_use = False
        asked: list[int] = []
        for host, peer in self._peers.items():
            if not peer.is_used:
                continue
            peer.is_used = False
            if peer.wait:
                peer.wait -= 1
                continue
            if peer.nonce:
                peer.misses += 1
                if peer.misses >= MISSES:
                    peer.takes = False
                    peer.pause = min(peer.pause * 2, LONGEST_PAUSE)
                    peer.wait = peer.pause - 1
            peer.nonce = nonce
            asked.append(host)
        return asked

    def on_answer(self, host: int, nonce: int) -> None:
        """The host has answered the question with this nonce."""
        peer = self._peers[host]
        if nonce and nonce == peer.nonce:
            peer.takes = True
            peer.nonce = peer.misses = peer.wait = 0
            peer.pause = 1
