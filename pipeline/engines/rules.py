"""The rules of an egress policy in a form that is asked for each new flow, however many rules there are.

Each rule is found by what it names: a network, a group or a name of the destination, or a network of guests.
It is entered under the one of these two that fewer rules have, so that a question meets few rules. Networks
are entered by their length and first address. A look-up then is one question to a dict for each length.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from pipeline.blake2 import blake2b
from pipeline.engines.groups import BITS
from pipeline.engines.guest_set import GuestSet, KnownGuest, needs_stations
from pipeline.engines.networks import Networks
from pipeline.engines.proxy import via
from pipeline.engines.proxy.via import Via
from pipeline.wire import ip

Ports = tuple[tuple[int, int], ...]
WEB_PORTS: Final[Ports] = ((80, 80), (443, 443))
"""The ports at which a connection must state a name, if a rule does not say otherwise."""


class RuleConfig(Protocol):
    """One rule of the configuration. An empty field fits everything."""

    @property
    def action(self) -> str: ...
    @property
    def guests(self) -> Sequence[str]: ...
    @property
    def networks(self) -> Sequence[str]: ...
    @property
    def groups(self) -> Sequence[str]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def ports(self) -> Ports: ...
    @property
    def protocols(self) -> Sequence[str]: ...
    @property
    def stated(self) -> str:
        """ "check": a connection must not state another name. "ignore": its address decides alone."""

    @property
    def stated_ports(self) -> Ports: ...
    @property
    def via(self) -> str:
        """The URL of the proxy, for the action "proxy" alone (pipeline.engines.proxy.via)."""


class BoundConfig(Protocol):
    """A quota of the configuration (pipeline.engines.quotas)."""

    @property
    def guests(self) -> Sequence[str]: ...


class PolicyConfig(Protocol):
    """The policy of the configuration."""

    @property
    def default(self) -> str: ...
    @property
    def preset(self) -> str:
        """ "", "open", "public" or "locked". Unless it is empty, it decides in the place of the default."""

    @property
    def rules(self) -> Sequence[RuleConfig]: ...
    @property
    def quotas(self) -> Sequence[BoundConfig]: ...


def number_of(pattern: str) -> int:
    """The number of a name pattern, in all workers and under all rules: 64 bits of a hash."""
    return int.from_bytes(blake2b(pattern.encode(), digest_size=8).digest(), "big")


def alias_number_of(pattern: str) -> int:
    """The number of names whose alias leads to a name of the pattern. Only rules that deny names have it."""
    return number_of(f"alias {pattern}")


class Rule:
    """One rule."""

    def __init__(self, config: RuleConfig, path: str, networks: "NetworkSets") -> None:
        """path: of the rule in the configuration. networks: makes the sets of addresses."""
        self.path = path
        self.via: Via | None = via.parse(config.via) if config.via else None
        """The proxy through which connections go."""
        self.allow = config.action in ("allow", "proxy")
        self.ask = config.action == "ask"
        """Somebody decides while the flow waits."""
        self.ports = config.ports
        self.protocols = frozenset(config.protocols)
        self.names = frozenset(map(number_of, config.names))
        if config.action == "deny":
            self.names |= frozenset(map(alias_number_of, config.names))
        self.groups = 0
        for word in config.groups:
            self.groups |= BITS[word]
        self.checks_stated = config.stated != "ignore"
        self.stated_ports: Ports = config.stated_ports or WEB_PORTS
        self.guest_texts = tuple(config.guests)
        self.network_texts = tuple(config.networks)
        self._sets = networks

    @property
    def anywhere(self) -> bool:
        """Whether the rule is about every destination."""
        return not (self.network_texts or self.groups or self.names)

    def lets_pass(self, protocol: str) -> bool:
        """Whether a flow of this protocol is allowed that the rule fits. A proxy carries TCP alone."""
        return self.allow and (self.via is None or protocol == "tcp")

    def awaits_name(self, port: int) -> bool:
        """Whether a connection to this port should state a name."""
        return self.checks_stated and has_port(self.stated_ports, port)

    def is_about(self, guest: KnownGuest, port: int, protocol: str) -> bool:
        """Whether the rule is about this guest, this port and this protocol."""
        if self.protocols and protocol not in self.protocols:
            return False
        if self.ports and (protocol == "icmp" or not has_port(self.ports, port)):
            return False
        return self.is_for(guest)

    def is_for(self, guest: KnownGuest) -> bool:
        """Whether the rule is about this guest."""
        return not self.guest_texts or guest in self._sets.guests(self.guest_texts)

    def has_address(self, addresses: Collection[int], groups: int) -> bool:
        """Whether the rule names the destination by its address."""
        if groups & self.groups:
            return True
        if not self.network_texts:
            return False
        known = self._sets.of(self.network_texts)
        return any(address in known for address in addresses)


def has_port(ports: Ports, port: int) -> bool:
    """Whether one of the ranges has the port."""
    return any(low <= port <= high for low, high in ports)


class NetworkSets:
    """Sets of addresses, each made when it is asked for first. Rules with the same networks share one."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Networks] = {}
        self._guests: dict[tuple[str, ...], GuestSet] = {}

    def of(self, texts: tuple[str, ...]) -> Networks:
        """The set of these networks."""
        found = self._made.get(texts)
        if found is None:
            found = self._made[texts] = Networks(texts)
        return found

    def guests(self, texts: tuple[str, ...]) -> GuestSet:
        """The set of these guests."""
        found = self._guests.get(texts)
        if found is None:
            found = self._guests[texts] = GuestSet(texts)
        return found


class RuleIndex:
    """Finds the rules that may be about a flow."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._always: list[int] = []
        """Rules about every destination of every guest."""
        self._networks = _Prefixes()
        self._guests = _Prefixes()
        self._groups: dict[int, list[int]] = {}
        self._names: dict[int, list[int]] = {}
        common = Counter(key for rule in rules for key in _keys(rule))
        for index, rule in enumerate(rules):
            self._enter(index, rule, common)

    def _enter(self, index: int, rule: Rule, common: Mapping[tuple[str, int | str], int]) -> None:
        by_destination = sum(common[key] for key in _destination_keys(rule))
        by_guest = sum(common[key] for key in _guest_keys(rule))
        if by_guest and (by_guest < by_destination or not by_destination):
            for text in rule.guest_texts:
                self._guests.add(text, index)
        elif by_destination:
            for text in rule.network_texts:
                self._networks.add(text, index)
            for bit in _bits(rule.groups):
                self._groups.setdefault(bit, []).append(index)
            for number in rule.names:
                self._names.setdefault(number, []).append(index)
        else:
            self._always.append(index)

    def candidates(
        self, guests: Collection[int], addresses: Collection[int], groups: int, names: Iterable[int]
    ) -> list[int]:
        """The numbers of rules that may be about such a flow, in ascending order."""
        found = set(self._always)
        for guest in guests:
            self._guests.find(guest, found)
        for address in addresses:
            self._networks.find(address, found)
        for bit, rules in self._groups.items():
            if groups & bit:
                found.update(rules)
        for name in names:
            found.update(self._names.get(name, ()))
        return sorted(found)


class _Prefixes:
    """Networks, each with the rules that name it."""

    def __init__(self) -> None:
        self._ipv4: dict[int, dict[int, list[int]]] = {}
        self._ipv6: dict[int, dict[int, list[int]]] = {}
        """By the number of bits that an address of the network may choose, and by the bits before these."""

    def add(self, text: str, rule: int) -> None:
        """The rule names this network."""
        first, last = ip.network(text)
        tables = self._ipv4 if ip.is_ipv4(last) else self._ipv6
        if tables is self._ipv4:
            first |= ip.MAPPED
        free = (last - first).bit_length()
        tables.setdefault(free, {}).setdefault(first >> free, []).append(rule)

    def find(self, address: int, found: set[int]) -> None:
        """Add the rules that name a network of the address."""
        for free, table in (self._ipv4 if ip.is_ipv4(address) else self._ipv6).items():
            rules = table.get(address >> free)
            if rules is not None:
                found.update(rules)


def _bits(mask: int) -> list[int]:
    return [bit for bit in BITS.values() if mask & bit]


def _guest_keys(rule: Rule) -> list[tuple[str, int | str]]:
    # A guest's MAC and link are no addresses, so they cannot be looked up as such.
    return [] if needs_stations(rule.guest_texts) else [("guest", text) for text in rule.guest_texts]


def _destination_keys(rule: Rule) -> list[tuple[str, int | str]]:
    return [
        *(("network", text) for text in rule.network_texts),
        *(("group", bit) for bit in _bits(rule.groups)),
        *(("name", number) for number in rule.names),
    ]


def _keys(rule: Rule) -> list[tuple[str, int | str]]:
    return [*_guest_keys(rule), *_destination_keys(rule)]
