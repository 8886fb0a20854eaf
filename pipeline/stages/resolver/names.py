"""Reports to the egress workers the addresses that a guest gets for names of the egress policy.

If a rule leads through a proxy, they get the texts of all names (TOLD), since a proxy is told them.

An address of 64:ff9b::/96 counts as the IPv4 address in it (pipeline.engines.policy).

The records go through demux before the reply itself. So they reach egress before any packet that the
guest sends to these addresses. If the policy has neither, the resolver does not look into replies.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from pipeline.config.model import EgressPolicy
from pipeline.engines import told
from pipeline.engines.dns import answers
from pipeline.engines.policy import Names, denied_aliases, has_proxies, name_text
from pipeline.ipc.ring import Producer
from pipeline.records.addresses import addr_bytes, addr_of
from pipeline.records.services import Named, Told
from pipeline.wire import ip

MAX_REPORTED: Final = 4096
"""Reports that are remembered."""


class _Report(NamedTuple):
    """A guest was told an address. name: for a proxy; "" if it is a name of this pattern of the policy."""

    guest_addr: int
    address: int
    pattern: int
    ttl_s: int
    name: str


class NameReports:
    """Reads replies to guests. ``wanted``: whether the policy has names or proxies."""

    def __init__(self, policy: EgressPolicy, demux_out: Producer, *, has_ipv6: bool = False) -> None:
        """has_ipv6: guests can reach IPv6 addresses, so these are reported too."""
        self._has_ipv6 = has_ipv6
        self._names = Names(policy)
        self._denied = denied_aliases(policy)
        self._demux_out = demux_out
        self._tells = has_proxies(policy)
        self.wanted = bool(self._names) or self._tells
        self._reported: OrderedDict[_Report, None] = OrderedDict()
        """The last MAX_REPORTED reports, for an egress worker that knows none."""

    def replace(self, policy: EgressPolicy) -> None:
        """Report the names of this policy from now on."""
        self._names.replace(policy)
        self._denied = denied_aliases(policy)
        self._tells = has_proxies(policy)
        self.wanted = bool(self._names) or self._tells
        self._reported.clear()

    def on_reply(self, guest_addr: int, payload: bytes) -> None:
        """This reply is about to be sent to a guest."""
        labels = answers.asked(payload)
        patterns = self._names.match(labels)
        name = name_text(labels) if self._tells else ""
        tells = told.is_host(name)
        if not (patterns or tells or self._denied):
            return
        addresses, ttl_s, aliases = answers.given(payload)
        patterns += [number for alias in aliases for number in self._denied.match_text(alias)]
        for address in addresses:
            if not (self._has_ipv6 or ip.is_ipv4(address)):
                continue
            for pattern in patterns:
                self._report(_Report(guest_addr, address, pattern, ttl_s, ""))
            if tells:
                self._report(_Report(guest_addr, ip.embedded(address), 0, 0, name))

    def _report(self, report: _Report) -> None:
        self._push(report)
        self._reported[report] = None
        self._reported.move_to_end(report)
        if len(self._reported) > MAX_REPORTED:
            self._reported.popitem(last=False)

    def _push(self, report: _Report) -> None:
        guest_addr, address, pattern, ttl_s, name = report
        if not name:
            self._demux_out.push(Named.pack(guest_addr, address, pattern, ttl_s))
            return
        for record in Told.pack_all(guest_addr, address, name):
            self._demux_out.push(record)

    def report_again(self) -> None:
        """Demux or an egress worker has a successor: report again what it may not know.

        Each name lasts for its whole time to live again. The guest may keep an address for longer than that
        anyway.
        """
        for report in self._reported:
            self._push(report)

    # --- another daemon ---------------------------------------------------------------------

    def rows(self) -> list[list[object]]:
        """The reports, as in Knowledge: another daemon's resolver will report them."""
        return [
            [addr_bytes(each.guest_addr), addr_bytes(each.address), each.pattern, each.ttl_s, each.name]
            for each in self._reported
        ]

    def restore(self, rows: Iterable[list[object]]) -> None:
        """Report what a former daemon has told guests. The policy may be another one by now.

        Its patterns have the same numbers. Egress ignores those that no rule has any more.
        """
        if not self.wanted:
            return
        for row in rows:
            match row:
                case [bytes() as guest, bytes() as addr, int() as pattern, int() as ttl_s, str() as name]:
                    if self._tells or not name:
                        self._report(_Report(addr_of(guest), addr_of(addr), pattern, ttl_s, name))
