"""Reports to the egress workers the addresses that a guest gets for names of the egress policy.

An address of 64:ff9b::/96 counts as the IPv4 address in it (pipeline.engines.policy).

The records (NAMED) go through demux before the reply itself. So they reach egress before any packet that the
guest sends to these addresses. If the policy has no names, the resolver does not look into replies.
"""

from collections import OrderedDict
from typing import Final

from pipeline.config.model import EgressPolicy
from pipeline.engines.dns import answers
from pipeline.engines.policy import Names
from pipeline.ipc.ring import Producer
from pipeline.records.services import Named
from pipeline.wire import ip

MAX_REPORTED: Final = 4096
"""Reports that are remembered."""


class NameReports:
    """Reads replies to guests. ``wanted``: whether the policy has names."""

    def __init__(self, policy: EgressPolicy, demux_out: Producer, *, has_ipv6: bool = False) -> None:
        """has_ipv6: guests can reach IPv6 addresses, so these are reported too."""
        self._has_ipv6 = has_ipv6
        self._names = Names(policy)
        self._demux_out = demux_out
        self.wanted = bool(self._names)
        self._reported: OrderedDict[bytes, None] = OrderedDict()
        """The records of the last MAX_REPORTED reports, for an egress worker that knows none."""

    def replace(self, policy: EgressPolicy) -> None:
        """Report the names of this policy from now on."""
        self._names.replace(policy)
        self.wanted = bool(self._names)
        self._reported.clear()

    def on_reply(self, guest_addr: int, payload: bytes) -> None:
        """This reply is about to be sent to a guest."""
        patterns = self._names.match(answers.asked(payload))
        if not patterns:
            return
        addresses, ttl_s = answers.given(payload)
        for address in addresses:
            if not (self._has_ipv6 or ip.is_ipv4(address)):
                continue
            for pattern in patterns:
                record = Named.pack(guest_addr, address, pattern, ttl_s)
                self._demux_out.push(record)
                self._reported[record] = None
                self._reported.move_to_end(record)
        while len(self._reported) > MAX_REPORTED:
            self._reported.popitem(last=False)

    def report_again(self) -> None:
        """Demux or an egress worker has a successor: report again what it may not know.

        Each name lasts for its whole time to live again. The guest may keep an address for longer than that
        anyway.
        """
        for record in self._reported:
            self._demux_out.push(record)
