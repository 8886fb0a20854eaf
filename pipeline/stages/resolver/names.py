"""Tells the egress workers which addresses a guest was given for names of the egress policy.

The records go through demux, before the reply itself: what the guest does with the reply comes
behind them. Without names in the policy nothing is looked at.
"""

from pipeline.config.model import Config
from pipeline.engines.dns import answers
from pipeline.engines.policy import Names
from pipeline.ipc.ring import Producer
from pipeline.records import descriptor as d


class NameTeller:
    """Looks at replies to guests. ``wanted``: whether the policy has names at all."""

    def __init__(self, config: Config, demux_out: Producer) -> None:
        self._names = Names(config.egress_policy)
        self._demux_out = demux_out
        self.wanted = bool(self._names)

    def on_reply(self, guest_addr: int, payload: bytes) -> None:
        """A reply that is about to be sent to a guest."""
        numbers = self._names.match(answers.asked(payload))
        if not numbers:
            return
        addresses, ttl = answers.given(payload)
        for address in addresses:
            for number in numbers:
                self._demux_out.push(
                    d.record(d.NAMED, guest_addr=guest_addr, remote_addr=address, seq=ttl, aux=number)
                )
