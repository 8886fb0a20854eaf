"""The egress policy: where a guest may connect to, by network, port, protocol and DNS name.

The first rule that fits decides. If none fits, the default decides. A rule fits when each of its conditions
holds. Networks and names together are one condition: the destination is in one of the networks, or has one of
the names. An address has a name only for the guest that received it from the gateway's DNS service, and only
while that answer is valid. Answers of other name servers do not count.

The policy checks the address that the guest sends to, before any translation. An address of 64:ff9b::/96
counts as the IPv4 address in it. The policy does not track connections: an allowed connection stays open
after the DNS answer has expired.

replace() sets other rules while the program runs. Workers get new rules one after the other. So what one
worker reports to another about a pattern must not depend on the rules: its number is a hash of its text.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from pipeline.blake2 import blake2b
from pipeline.engines.guest_set import GuestSet, StationOf, needs_stations
from pipeline.engines.networks import Networks
from pipeline.wire import ip

MAX_NAMED: Final = 16384
"""The most pairs of guest and named address. One more replaces the oldest."""
MIN_VALID: Final = 5.0
"""Seconds for which an answer is valid at least: a guest needs time to use an answer with TTL 0."""

_LONG_AGO: Final = float("-inf")

Ports = tuple[tuple[int, int], ...]


class RuleConfig(Protocol):
    """One rule of the configuration. An empty field fits everything."""

    @property
    def action(self) -> str: ...
    @property
    def guests(self) -> Sequence[str]: ...
    @property
    def networks(self) -> Sequence[str]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def ports(self) -> Ports: ...
    @property
    def protocols(self) -> Sequence[str]: ...


class PolicyConfig(Protocol):
    """The policy of the configuration."""

    @property
    def default(self) -> str: ...
    @property
    def rules(self) -> Sequence[RuleConfig]: ...


def has_names(config: PolicyConfig) -> bool:
    """Whether any rule is about names."""
    return any(rule.names for rule in config.rules)


def has_stations(config: PolicyConfig) -> bool:
    """Whether any rule names a guest by its MAC address or its link."""
    return any(needs_stations(rule.guests) for rule in config.rules)


def number_of(pattern: str) -> int:
    """The number of a name pattern, in all workers and under all rules: 64 bits of a hash."""
    return int.from_bytes(blake2b(pattern.encode(), digest_size=8).digest(), "big")


class Names:
    """Finds the patterns that a name fits: ``example.com``, or ``*.example.com`` for all names below it."""

    def __init__(self, config: PolicyConfig) -> None:
        self._exact: dict[str, int] = {}
        self._below: dict[str, int] = {}
        self.replace(config)

    def replace(self, config: PolicyConfig) -> None:
        """Find the patterns of other rules from now on."""
        self._exact.clear()
        self._below.clear()
        for pattern in (name for rule in config.rules for name in rule.names):
            if pattern.startswith("*."):
                self._below[pattern[2:]] = number_of(pattern)
            else:
                self._exact[pattern] = number_of(pattern)

    def __bool__(self) -> bool:
        return bool(self._exact or self._below)

    def match(self, labels: Sequence[bytes]) -> list[int]:
        """The numbers of the patterns that a name fits. labels: without the root label."""
        name = b".".join(labels).lower().decode("latin-1")
        found = [self._exact[name]] if name in self._exact else []
        while name:
            _, dot, name = name.partition(".")
            if dot and name in self._below:
                found.append(self._below[name])
        return found


def fitting_numbers(name: str) -> list[int]:
    """The numbers of all patterns that a name would fit, whether a rule has them or not."""
    found = [number_of(name)]
    while "." in name:
        name = name.partition(".")[2]
        found.append(number_of(f"*.{name}"))
    return found


_NO_NAMES: Final[Mapping[int, float]] = {}
_ALWAYS: Final = float("inf")


class _Rule(NamedTuple):
    allow: bool
    guests: GuestSet | None
    networks: Networks | None
    names: frozenset[int]
    ports: Ports
    protocols: frozenset[str]


class Decision(NamedTuple):
    """What Policy.explain() finds. rule: the one that decides, as a path in the configuration.

    passed: for each rule before it, the part that is not about such a flow.
    """

    allows: bool
    rule: str
    passed: tuple[str, ...]


class Policy:
    """The rules, and the current names of addresses."""

    def __init__(
        self,
        config: PolicyConfig,
        max_named: int = MAX_NAMED,
        addresses_of: Callable[[int], Collection[int]] = lambda addr: (addr,),
        also_means: Mapping[int, int] | None = None,
        station_of: StationOf = lambda _addr: None,
    ) -> None:
        """addresses_of: all addresses of the station that has one (pipeline.engines.stations).

        also_means: destinations for which the rules about another one hold too. station_of: see guest_set.
        """
        self._station_of = station_of
        self._also_means = also_means or {}
        self._rules: list[_Rule] = []
        self._default = True
        self._max_named = max_named
        self._addresses_of = addresses_of
        self._named: OrderedDict[tuple[int, int], dict[int, float]] = OrderedDict()
        self.replace(config)

    def replace(self, config: PolicyConfig) -> None:
        """Apply other rules from now on. The names of addresses stay known."""
        self._default = config.default == "allow"
        self._rules = [
            _Rule(
                rule.action == "allow",
                GuestSet(rule.guests, self._station_of) if rule.guests else None,
                Networks(rule.networks) if rule.networks else None,
                frozenset(map(number_of, rule.names)),
                rule.ports,
                frozenset(rule.protocols),
            )
            for rule in config.rules
        ]

    @property
    def active(self) -> bool:
        """Whether the policy can refuse anything."""
        return bool(self._rules) or not self._default

    def learn(self, guest: int, address: int, pattern: int, ttl: float, now: float) -> None:
        """The gateway answered a guest that a name of this pattern has this address for ttl seconds."""
        key = (guest, ip.embedded(address))
        names = self._named.pop(key, None)
        if names is None:
            names = {}
            if len(self._named) >= self._max_named:
                self._named.popitem(last=False)
        names[pattern] = max(names.get(pattern, 0.0), now + max(ttl, MIN_VALID))
        self._named[key] = names

    def allows(self, guest: int, address: int, port: int, protocol: str, now: float) -> bool:
        """Whether a guest may reach an address. protocol: "tcp", "udp" or "icmp" (which has no port)."""
        return not self.refusal(guest, address, port, protocol, now)

    def refusal(self, guest: int, address: int, port: int, protocol: str, now: float) -> str:
        """What forbids a guest to reach an address, as a path in the configuration; "" if it is allowed."""
        address = ip.embedded(address)
        other = self._also_means.get(address)
        addresses = (address,) if other is None else (address, other)
        guests = self._addresses_of(guest)
        for index, rule in enumerate(self._rules):
            if not self._misfit(rule, guests, addresses, port, protocol, now):
                return "" if rule.allow else f"egress-policy.rules[{index}]"
        return "" if self._default else "egress-policy.default"

    def explain(
        self, guest: int, address: int, port: int, protocol: str, now: float, name: str = ""
    ) -> Decision:
        """Which rule decides about a flow. name: as if the gateway had told the guest the address for it."""
        key = (guest, ip.embedded(address))
        told = self._named.get(key)
        if name:
            self._named[key] = {**(told or {}), **dict.fromkeys(fitting_numbers(name), _ALWAYS)}
        try:
            return self._decision(guest, key[1], port, protocol, now)
        finally:
            if told is not None:
                self._named[key] = told
            elif name:
                del self._named[key]

    def _decision(self, guest: int, address: int, port: int, protocol: str, now: float) -> Decision:
        other = self._also_means.get(address)
        addresses = (address,) if other is None else (address, other)
        guests = self._addresses_of(guest)
        passed: list[str] = []
        for index, rule in enumerate(self._rules):
            part = self._misfit(rule, guests, addresses, port, protocol, now)
            if not part:
                return Decision(rule.allow, f"egress-policy.rules[{index}]", tuple(passed))
            passed.append(part)
        return Decision(self._default, "egress-policy.default", tuple(passed))

    def still_allows(self, guest: int, address: int, port: int, protocol: str) -> bool:
        """Whether a flow that is open may go on. A name counts although its answer may have expired."""
        return self.allows(guest, address, port, protocol, _LONG_AGO)

    def _misfit(
        self,
        rule: _Rule,
        guests: Collection[int],
        addresses: Collection[int],
        port: int,
        protocol: str,
        now: float,
    ) -> str:
        """The part of the rule that is not about such a flow, "" if all of it is.

        guests, addresses: what the flow's two ends are called.
        """
        if rule.protocols and protocol not in rule.protocols:
            return "protocols"
        if rule.ports and (protocol == "icmp" or not any(low <= port <= high for low, high in rule.ports)):
            return "ports"
        if rule.guests is not None and not any(guest in rule.guests for guest in guests):
            return "guests"
        if rule.networks is None and not rule.names:
            return ""
        if rule.networks is not None and any(address in rule.networks for address in addresses):
            return ""
        named = any(
            number in rule.names and expires > now
            for guest in guests
            for address in addresses
            for number, expires in self._named.get((guest, address), _NO_NAMES).items()
        )
        return "" if named else "names" if rule.names else "networks"
