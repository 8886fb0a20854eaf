"""The egress policy: where a guest may connect to, by network, group, port, protocol and name.

The first rule that fits decides. If none fits, the preset or the default decides. A rule fits when each of
its conditions holds. Networks, groups and names together are one condition: the destination is in one of the
networks or groups, or has one of the names.

A name is checked three times:

1. *The question.* question() says whether a guest may ask the gateway for a name.
2. *The address.* It has a name only for the guest that received it from the gateway's DNS service, and
   only while that answer is valid. Answers of other name servers do not count.
3. *The connection.* If a name decides, judge() first answers that the flow must be held. The caller reads the
   name that the flow's first bytes state (pipeline.engines.stated), and asks again with it.

A rule that allows names needs the second and the third. A rule that denies names needs one of them. A rule
that denies fits a flow that contradicts itself.

The policy checks the address that the guest sends to, before any translation. An address of 64:ff9b::/96
counts as the IPv4 address in it. The policy does not track connections: an allowed connection stays open
after the DNS answer has expired.

replace() sets other rules while the program runs. Workers get new rules one after the other. So what one
worker reports to another about a pattern must not depend on the rules: its number is a hash of its text.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pipeline.engines.groups import BITS, Groups
from pipeline.engines.guest_set import KnownGuest, needs_stations
from pipeline.engines.proxy.via import Via
from pipeline.engines.rules import (
    NetworkSets,
    PolicyConfig,
    Rule,
    RuleIndex,
    alias_number_of,
    has_port,
    number_of,
)
from pipeline.engines.stations import StationOf
from pipeline.wire import ip
from pipeline.wire.stated import CONTRADICTION, NAME, OTHER, Stated

MAX_NAMED: Final = 16384
"""The most pairs of guest and named address. One more replaces the oldest."""
MIN_VALID: Final = 5.0
"""Seconds for which an answer is valid at least: a guest needs time to use an answer with TTL 0."""
DEFAULT: Final = "egress-policy.default"
PRESET: Final = "egress-policy.preset"
"""What decides when no rule fits."""

_LONG_AGO: Final = float("-inf")
_PUBLIC: Final = BITS["public"]
_CLOSED: Final = ("public", "locked")
"""Presets that refuse what no rule allows."""


def has_names(config: PolicyConfig) -> bool:
    """Whether any rule is about names."""
    return any(rule.names for rule in config.rules)


def has_proxies(config: PolicyConfig) -> bool:
    """Whether any rule leads through a proxy, which is told the names of addresses."""
    return any(rule.via for rule in config.rules)


def has_stations(config: PolicyConfig) -> bool:
    """Whether any rule or quota names a guest by its MAC address or its link."""
    return any(needs_stations(each.guests) for each in (*config.rules, *config.quotas))


def name_text(labels: Sequence[bytes]) -> str:
    """A name in lower case, without the last dot; ``.`` if a label has a dot: no host has such a name."""
    if any(b"." in label for label in labels):
        return "."
    return b".".join(labels).lower().decode("latin-1")


class Names:
    """Finds the patterns that a name fits: ``example.com``, or ``*.example.com`` for all names below it."""

    def __init__(self, config: PolicyConfig) -> None:
        self._exact: dict[str, int] = {}
        self._below: dict[str, int] = {}
        self.replace(config)

    def replace(self, config: PolicyConfig) -> None:
        """Find the patterns of other rules from now on."""
        self.set_patterns(name for rule in config.rules for name in rule.names)

    def set_patterns(self, patterns: Iterable[str], number: Callable[[str], int] = number_of) -> None:
        """Find these patterns from now on. number: what match() returns for a pattern."""
        self._exact.clear()
        self._below.clear()
        for pattern in patterns:
            if pattern.startswith("*."):
                self._below[pattern[2:]] = number(pattern)
            else:
                self._exact[pattern] = number(pattern)

    def __bool__(self) -> bool:
        return bool(self._exact or self._below)

    def match(self, labels: Sequence[bytes]) -> list[int]:
        """The numbers of the patterns that a name fits. labels: without the root label."""
        return self.match_text(name_text(labels))

    def match_text(self, name: str) -> list[int]:
        """The same for a name in lower case, without the last dot."""
        found = [self._exact[name]] if name in self._exact else []
        while name:
            _, dot, name = name.partition(".")
            if dot and name in self._below:
                found.append(self._below[name])
        return found


def denied_aliases(config: PolicyConfig) -> Names:
    """Finds the patterns of rules that deny names, for the names to which aliases lead."""
    found = Names(config)
    denied = (name for rule in config.rules if rule.action == "deny" for name in rule.names)
    found.set_patterns(denied, alias_number_of)
    return found


def fitting_numbers(name: str) -> list[int]:
    """The numbers of all patterns that a name would fit, whether a rule has them or not."""
    found = [number_of(name)]
    while "." in name:
        name = name.partition(".")[2]
        found.append(number_of(f"*.{name}"))
    return found


_NO_NAMES: Final[Mapping[int, float]] = {}
_NO_PATTERNS: Final[frozenset[int]] = frozenset()
_ALWAYS: Final = float("inf")


class Verdict(NamedTuple):
    """What the policy says of a flow. ``rule``: what decides, as a path in the configuration.

    ``hold``: the name that the flow states may change the answer. Until then ``allow`` has no meaning.
    ``via``: the proxy through which the flow goes, or may go, if it is held. If ``allow`` and ``hold`` are
    false, the proxy's rule fits, but it carries TCP alone. ``awaited``: the proxy, or the choice of the way,
    needs the name that the flow states first.
    """

    allow: bool
    rule: str
    hold: bool = False
    via: Via | None = None
    awaited: bool = False


class Decision(NamedTuple):
    """What Policy.explain() finds. passed: for each rule before it, the part that does not fit."""

    verdict: Verdict
    passed: tuple[str, ...]


class _Flow(NamedTuple):
    """What is known of a flow. ``names``: numbers of the patterns that its address has for the guest."""

    guest: KnownGuest
    addresses: tuple[int, ...]
    groups: int
    names: frozenset[int]
    port: int
    protocol: str
    stated: Stated | None
    patterns: frozenset[int]
    """Those of the stated name."""


def is_same_way(one: Via | None, other: Via | None) -> bool:
    """Whether both lead to the same place: the same proxy, or none."""
    return other is None if one is None else one.is_same(other)


def _of_rule(rule: Rule, protocol: str, port: int) -> Verdict:
    """What a rule says of a flow that it fits."""
    allow = rule.lets_pass(protocol)
    awaited = allow and rule.via is not None and rule.awaits_name(port)
    return Verdict(allow, rule.path, via=rule.via, awaited=awaited)


_FITS: Final = 1
_DOES_NOT: Final = 0
_DEPENDS: Final = 2
"""It fits if the flow states the right name."""


class Policy:
    """The rules, and the current names of addresses."""

    def __init__(
        self,
        config: PolicyConfig,
        max_named: int = MAX_NAMED,
        addresses_of: Callable[[int], Collection[int]] = lambda addr: (addr,),
        also_means: Mapping[int, int] | None = None,
        groups: Groups | None = None,
        station_of: StationOf = lambda _addr: None,
        held_with: Callable[[int], Collection[int]] | None = None,
    ) -> None:
        """addresses_of: all addresses of the station that has one (pipeline.engines.stations).

        also_means: destinations for which the rules about another one hold too. groups: of addresses.
        station_of: the station that has an address now. held_with: as addresses_of, without addresses that
        another guest has too. Only these addresses share the names of destinations.
        """
        self._station_of = station_of
        self._also_means = also_means or {}
        self._groups = groups or Groups()
        self._rules: list[Rule] = []
        self._index = RuleIndex(())
        self._asking: frozenset[str] = frozenset()
        """The rules about whose flows somebody has to decide, by their paths."""
        self._denied_names: list[int] = []
        """The rules that deny names."""
        self._asks_groups = False
        self._names_allowed = False
        """Rules allow names, so questions for names that no rule allows are refused."""
        self._default = True
        self._preset = ""
        self._max_named = max_named
        self._addresses_of = addresses_of
        self._held_with = held_with or addresses_of
        self._named: OrderedDict[tuple[int, int], dict[int, float]] = OrderedDict()
        self._patterns = Names(config)
        self.replace(config)

    def replace(self, config: PolicyConfig) -> None:
        """Apply other rules from now on. The names of addresses stay known."""
        self._default = config.default == "allow"
        self._preset = config.preset
        networks = NetworkSets()
        self._rules = [
            Rule(rule, f"egress-policy.rules[{index}]", networks) for index, rule in enumerate(config.rules)
        ]
        self._index = RuleIndex(self._rules)
        self._patterns.replace(config)
        self._denied_names = [
            index for index, rule in enumerate(self._rules) if rule.names and not rule.allow and not rule.ask
        ]
        self._asking = frozenset(rule.path for rule in self._rules if rule.ask)
        self._asks_groups = self._preset == "public" or any(rule.groups for rule in self._rules)
        self._names_allowed = any(rule.names and (rule.allow or rule.ask) for rule in self._rules)

    @property
    def active(self) -> bool:
        """Whether the policy can refuse anything."""
        return bool(self._rules) or not self._default or self._preset in _CLOSED

    @property
    def judges_questions(self) -> bool:
        """Whether question() can refuse anything."""
        return self._names_allowed or bool(self._denied_names) or self._preset == "locked"

    # --- names of addresses -------------------------------------------------------------------

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

    # --- flows --------------------------------------------------------------------------------

    def judge(
        self,
        guest: int,
        address: int,
        port: int,
        protocol: str,
        now: float,
        stated: Stated | None = None,
    ) -> Verdict:
        """What the policy says of a flow. protocol: "tcp", "udp" or "icmp" (which has no port).

        stated: what the first bytes of the flow state; None while they are not known.
        """
        flow = self._flow(guest, address, port, protocol, now, stated)
        index = self._index
        names = flow.names | flow.patterns
        depends: list[int] = []
        verdict: Verdict | None = None
        decided_at = len(self._rules)
        for at in index.candidates(flow.guest.addresses, flow.addresses, flow.groups, names):
            rule = self._rules[at]
            if not rule.is_about(flow.guest, port, protocol):
                continue
            fits = self._fits(rule, flow)
            if fits == _FITS:
                verdict, decided_at = _of_rule(rule, protocol, port), at
                break
            if fits == _DEPENDS:
                depends.append(at)
        if stated is not None:
            denied = self._denied_at(flow, decided_at) if stated.kind == CONTRADICTION else -1
            if denied >= 0:
                return Verdict(False, self._rules[denied].path)
            return verdict or self._otherwise(flow.groups)
        verdict = verdict or self._otherwise(flow.groups)
        if any((True, self._rules[at].via) != (verdict.allow, verdict.via) for at in depends):
            return self._undecided(verdict, depends, port)
        if verdict.allow and protocol != "icmp" and self._denied_at(flow, decided_at) >= 0:
            return verdict._replace(hold=True)
        return verdict

    def _undecided(self, verdict: Verdict, depends: Sequence[int], port: int) -> Verdict:
        """What is said of a flow that some rules fit if it states their names. verdict: if none fits."""
        rules = [self._rules[at] for at in depends]
        first = rules[0]
        ways = {rule.via for rule in rules} | ({verdict.via} if verdict.allow else set())
        awaited = ways != {None} and first.awaits_name(port)
        return verdict._replace(hold=True, via=first.via, awaited=awaited)

    def asks(self, verdict: Verdict) -> bool:
        """Whether somebody has to decide about the flow."""
        return verdict.rule in self._asking and not (verdict.allow or verdict.hold)

    def _flow(
        self, guest: int, address: int, port: int, protocol: str, now: float, stated: Stated | None
    ) -> _Flow:
        address = ip.embedded(address)
        other = self._also_means.get(address)
        addresses = (address,) if other is None else (address, other)
        groups = 0
        if self._asks_groups:
            for each in addresses:
                groups |= self._groups.of(each)
        names = frozenset(
            number
            for each in self._held_with(guest)
            for one in addresses
            for number, expires in self._named.get((each, one), _NO_NAMES).items()
            if expires > now
        )
        patterns = (
            frozenset(self._patterns.match_text(stated.name))
            if stated is not None and stated.kind == NAME
            else _NO_PATTERNS
        )
        return _Flow(self._known(guest), addresses, groups, names, port, protocol, stated, patterns)

    def _known(self, guest: int) -> KnownGuest:
        return KnownGuest(self._addresses_of(guest), self._station_of(guest))

    def _fits(self, rule: Rule, flow: _Flow) -> int:
        """Whether the destination is one of the rule's."""
        if rule.anywhere or rule.has_address(flow.addresses, flow.groups):
            return _FITS
        if not rule.names:
            return _DOES_NOT
        named = not rule.names.isdisjoint(flow.names)
        if not rule.lets_pass(flow.protocol):
            if named or not rule.names.isdisjoint(flow.patterns):
                return _FITS
            return _DOES_NOT
        if not named:
            return _DOES_NOT
        if not rule.checks_stated or flow.protocol == "icmp":
            return _FITS
        stated = flow.stated
        if stated is None:
            return _DEPENDS
        if stated.kind == NAME:
            return _DOES_NOT if rule.names.isdisjoint(flow.patterns) else _FITS
        return _FITS if stated.kind == OTHER and not has_port(rule.stated_ports, flow.port) else _DOES_NOT

    def _denied_at(self, flow: _Flow, before: int) -> int:
        """The first rule before this one that may deny names to such a flow; -1 if there is none."""
        for at in self._denied_names:
            if at >= before:
                break
            if self._rules[at].is_about(flow.guest, flow.port, flow.protocol):
                return at
        return -1

    def _otherwise(self, groups: int) -> Verdict:
        """What is said of a flow that no rule fits."""
        if not self._preset:
            return Verdict(self._default, DEFAULT)
        public = self._preset == "public" and groups & _PUBLIC != 0
        return Verdict(self._preset == "open" or public, PRESET)

    def explain(
        self, guest: int, address: int, port: int, protocol: str, now: float, name: str = ""
    ) -> Decision:
        """Which rule decides about a flow.

        name: as if the gateway had told the guest that the address has it, and as if the flow stated it.
        """
        key = (guest, ip.embedded(address))
        told = self._named.get(key)
        if name:
            self._named[key] = {**(told or {}), **dict.fromkeys(fitting_numbers(name), _ALWAYS)}
        stated = Stated(NAME, name) if name else None
        try:
            verdict = self.judge(guest, address, port, protocol, now, stated)
            flow = self._flow(guest, address, port, protocol, now, stated)
        finally:
            if told is not None:
                self._named[key] = told
            elif name:
                del self._named[key]
        passed: list[str] = []
        for rule in self._rules:
            if rule.path == verdict.rule:
                break
            passed.append(self._misfit(rule, flow))
        return Decision(verdict, tuple(passed))

    def _misfit(self, rule: Rule, flow: _Flow) -> str:
        """The part of the rule that is not about such a flow. "names" if it may be about it."""
        if rule.protocols and flow.protocol not in rule.protocols:
            return "protocols"
        if not rule.is_about(flow.guest, flow.port, flow.protocol):
            return "guests" if not rule.is_for(flow.guest) else "ports"
        return "names" if rule.names else "groups" if rule.groups else "networks"

    def allows(self, guest: int, address: int, port: int, protocol: str, now: float) -> bool:
        """Whether a guest may open a flow to an address. Of some flows, the stated name decides later."""
        return not self.refusal(guest, address, port, protocol, now)

    def refusal(self, guest: int, address: int, port: int, protocol: str, now: float) -> str:
        """What forbids a guest to reach an address, as a path in the configuration; "" if it is allowed."""
        verdict = self.judge(guest, address, port, protocol, now)
        return "" if verdict.hold or verdict.allow else verdict.rule

    def still_allows(
        self,
        guest: int,
        address: int,
        port: int,
        protocol: str,
        stated: Stated | None = None,
        via: Via | None = None,
    ) -> bool:
        """Whether a flow that is open may go on. A name counts although its answer may have expired.

        via: the proxy through which it goes. It must be the same now, unless the name decides about that.
        A flow goes on if it would have to be asked about: it may be one that was approved.
        """
        verdict = self.judge(guest, address, port, protocol, _LONG_AGO, stated)
        if verdict.hold or not verdict.allow:
            return verdict.hold or self.asks(verdict)
        return is_same_way(verdict.via, via)

    # --- questions ----------------------------------------------------------------------------

    def question(self, guest: int, name: str) -> Verdict:
        """Whether a guest may ask for a name, which is in lower case and has no last dot.

        A rule that is about some ports or protocols alone allows the question, and does not forbid it.
        """
        asking = self._known(guest)
        patterns = self._patterns.match_text(name)
        for at in self._index.candidates(asking.addresses, (), _PUBLIC, patterns):
            rule = self._rules[at]
            if not rule.is_for(asking):
                continue
            if not rule.names.isdisjoint(patterns):
                if rule.allow or rule.ask or not (rule.ports or rule.protocols):
                    return Verdict(rule.allow or rule.ask, rule.path)
            elif (rule.allow or rule.ask) and (rule.anywhere or rule.groups & _PUBLIC):
                return Verdict(True, rule.path)
            elif rule.anywhere and self._names_allowed and not (rule.ports or rule.protocols):
                return Verdict(False, rule.path)
        if self._preset:
            return Verdict(self._preset != "locked", PRESET)
        return Verdict(self._default or not self._names_allowed, DEFAULT)
