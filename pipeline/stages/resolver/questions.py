"""Applies the egress policy to guests' questions, and to the answers of upstream servers.

A question for a name that no rule allows does not leave the host. What the gateway knows itself (its zones,
the hosts file) is answered all the same. The policy about a guest holds for all its addresses.
"""

from collections.abc import Callable
from typing import NamedTuple

from pipeline.config.model import Config, EgressPolicy
from pipeline.counters import INDEX
from pipeline.engines.dns import message as m
from pipeline.engines.dns.filters import AnswerFilter, Labels
from pipeline.engines.dns.zones import A, Zones
from pipeline.engines.policy import Names, Policy, name_text
from pipeline.engines.quotas import Quotas
from pipeline.engines.stations import Stations
from pipeline.stages import address_groups

_ANSWER = "answer"
_BY_POLICY = INDEX["dns_query_refused_policy"]
_BY_QUOTA = INDEX["dns_query_refused_quota"]
_RCODES = {"refuse": m.REFUSED, "nxdomain": m.NXDOMAIN, _ANSWER: m.REFUSED}


class Refused(NamedTuple):
    """The reply to a question that is not allowed, and what refuses it. counter: of such questions."""

    payload: bytes
    rule: str
    counter: int


class QuestionPolicy:
    """``judges``: whether any question may be refused."""

    def __init__(self, config: Config, is_local: Callable[[m.Query], bool]) -> None:
        """is_local: whether the gateway answers a question itself."""
        network = config.network
        self.stations = Stations({**network.dhcp_static_leases, **network.ipv6_mac_leases})
        self._is_local = is_local
        self._policy = Policy(
            config.access.policy,
            addresses_of=self.stations.addresses_of,
            held_with=self.stations.held_with,
            station_of=self.stations.station_of,
        )
        self.quotas = Quotas(self.stations.addresses_of, self.stations.station_of)
        self._rcode = m.REFUSED
        self._judges_names = False
        self.judges = False
        self.replace(config.access.policy)

    def replace(self, policy: EgressPolicy) -> None:
        """Judge by this policy from now on."""
        self._policy.replace(policy)
        self._rcode = _RCODES[policy.questions]
        self._judges_names = self._policy.judges_questions and policy.questions != _ANSWER
        self.quotas.replace(policy.quotas)
        self.judges = self._judges_names or self.quotas.on

    def refusal(self, wire: bytes, guest: int, guest_addr: int, *, tcp: bool) -> Refused | None:
        """The refusal of a guest's message; None if the name server may answer it. guest: its number.

        Quotas count the questions that are allowed, except those that the gateway answers itself.
        """
        query = m.parse_query(wire, tcp=tcp)
        if isinstance(query, m.Malformed):
            return None
        rule, counter = "", _BY_POLICY
        if self._judges_names:
            verdict = self._policy.question(guest_addr, name_text(query.labels))
            rule = "" if verdict.allow else verdict.rule
        if (rule or self.quotas.on) and self._is_local(query):
            return None
        if not rule and self.quotas.on:
            rule, counter = self.quotas.ask(guest, guest_addr), _BY_QUOTA
        return Refused(m.render(query, m.Body(self._rcode)), rule, counter) if rule else None


def filter_of(config: Config, zones: Callable[[], Zones]) -> AnswerFilter:
    """The filter of answers. zones: the gateway's, whose names are those of this network."""

    def is_inner_name(labels: Labels) -> bool:
        return zones().resolve(tuple(labels), A) is not None

    made = AnswerFilter(address_groups.of(config.network).is_inner, is_inner_name)
    set_filter(made, config.access.policy)
    return made


def set_filter(answers: AnswerFilter, policy: EgressPolicy) -> bool:
    """Filter by this policy from now on. Returns whether that may change an answer."""
    inner = Names(EgressPolicy())
    inner.set_patterns(policy.inner_names)
    before = answers.denies, answers.removed, answers.rcode
    answers.denies = policy.denies_rebinding
    answers.removed = policy.removed
    answers.rcode = _RCODES[policy.questions]
    answers.may_be_inner = lambda labels: bool(inner.match(labels))
    return before != (answers.denies, answers.removed, answers.rcode) or bool(inner)
