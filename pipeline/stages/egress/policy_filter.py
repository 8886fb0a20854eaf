"""Applies the egress policy to each new flow, and counts and logs the flows that it refuses."""

import errno
from time import monotonic
from typing import Final

from pipeline.config.model import EgressPolicy, Network, Quota
from pipeline.counters import INDEX
from pipeline.engines.groups import Groups
from pipeline.engines.policy import Decision, Policy, Verdict, has_names
from pipeline.engines.proxy.via import Via
from pipeline.engines.quotas import Meter, Quotas
from pipeline.engines.rules import WEB_PORTS, has_port
from pipeline.engines.stated import quic
from pipeline.engines.stations import Stations
from pipeline.engines.told import ToldNames
from pipeline.records.flows import Ends
from pipeline.records.services import Named, Told
from pipeline.stages import address_groups
from pipeline.stages.egress.asks import Answer
from pipeline.stages.worker import Worker
from pipeline.wire import ip
from pipeline.wire.stated import CONTRADICTION, NAME, OTHER, QUIC, Stated

REFUSED: Final = errno.EACCES
"""The errno of a refusal. The guest gets the ICMP code "administratively prohibited"."""
LOG_SPACING: Final = 10.0
"""Seconds between two log lines about refused flows of one guest (see also pipeline.log.limits)."""
MAX_LOGGED: Final = 1024
"""The most guest addresses whose last line is remembered."""

_REFUSED: Final = INDEX["egress_flow_refused_policy"]
_ENDED: Final = INDEX["egress_flow_closed_policy"]
_CONTRADICTS: Final = INDEX["egress_flow_refused_stated_name"]
_OVER_QUOTA: Final = INDEX["egress_flow_refused_quota"]
_QUOTA_ENDED: Final = INDEX["egress_flow_closed_quota"]
_TCP_ONLY: Final = INDEX["egress_flow_refused_proxy_tcp_only"]
_ECH: Final = "egress-policy.ech"
_QUIC: Final = "egress-policy.quic"


class PolicyFilter:
    """Judges each new flow. If it is not ``active``, it allows every flow, and callers need not ask."""

    def __init__(self, worker: Worker, policy: EgressPolicy, network: Network | None = None) -> None:
        """network: has the static leases, and the two addresses of the host."""
        static: dict[int, bytes] = {}
        hosts: dict[int, int] = {}
        if network is not None:
            # Nobody knows the MAC of a DUID. demux reports it when the client has its address.
            static = {**network.dhcp_static_leases, **network.ipv6_mac_leases}
            if network.ipv6_host:
                # A rule about the host's IPv4 address was written when there was no other one.
                hosts[network.ipv6_host] = network.host_ip
        self.stations = Stations(static)
        self._config = policy
        self._log = worker.log
        self._reads_quic = self._load_quic()
        groups = Groups() if network is None else address_groups.of(network)
        self.policy = Policy(
            policy,
            addresses_of=self.stations.addresses_of,
            held_with=self.stations.held_with,
            also_means=hosts,
            groups=groups,
            station_of=self.stations.station_of,
        )
        self.active = self.policy.active
        self.quotas = Quotas(self.stations.addresses_of, self.stations.station_of)
        """They hold beside the policy, also if it is not active."""
        self._quotas: tuple[Quota, ...] = ()
        self.follow_quotas(policy.quotas)
        self._told = ToldNames()
        self._text = ""
        """The beginning of a name."""
        self._counts = worker.counts
        self._logged: dict[int, tuple[float, int]] = {}
        """By guest: when its next line is due, and the refusals since its last line."""

    def replace(self, policy: EgressPolicy) -> bool:
        """Judge by this policy from now on. Returns whether it is another one."""
        changed = policy != self._config
        self._config = policy
        self._reads_quic = self._load_quic()
        self.policy.replace(policy)
        self.active = self.policy.active
        return changed

    def follow_quotas(self, quotas: tuple[Quota, ...]) -> bool:
        """Follow these quotas from now on. Returns whether they are others. Then flows need other meters."""
        if quotas == self._quotas:
            return False
        self._quotas = quotas
        self.quotas.replace(quotas)
        return True

    def learn(self, named: Named) -> None:
        """The gateway's name server told a guest an address for a name of the policy."""
        self.policy.learn(named.guest_addr, named.remote_addr, named.pattern, named.ttl_s, monotonic())

    def learn_text(self, told: Told) -> None:
        """A part of the name for which the gateway's name server told a guest an address."""
        self._text = told.text if told.first else self._text + told.text
        if told.last:
            self._told.learn(told.guest_addr, told.remote_addr, self._text)

    def name_for_proxy(self, ends: Ends, stated: Stated | None) -> str:
        """The name that a proxy is told; "" if it is the address. stated: None if nobody has read it."""
        name = stated.name if stated is not None and stated.kind == NAME else ""
        guests = self.stations.held_with(ends.guest_addr)
        return self._told.choose(guests, ip.embedded(ends.remote_addr), name)

    def refuse_way(self, ends: Ends, verdict: Verdict) -> Verdict:
        """A connection that is open leads elsewhere than this verdict says. Counts the refusal."""
        self._counts[_CONTRADICTS] += 1
        self.refuse(ends, "tcp", verdict.rule)
        return verdict._replace(allow=False)

    def admits(self, guest: int, address: int, port: int, protocol: str) -> bool:
        """Whether a guest may receive from an address to which it sent nothing: if it could send there."""
        return self.policy.allows(guest, address, port, protocol, monotonic())

    def ends(self, ends: Ends, protocol: str, stated: Stated | None = None, via: Via | None = None) -> bool:
        """Whether the policy, which is new, forbids a flow that is open. Counts it. The caller ends it.

        stated: what the flow has stated, if somebody has read it. via: the proxy through which it goes.
        """
        port = ends.remote_port
        if self.policy.still_allows(ends.guest_addr, ends.remote_addr, port, protocol, stated, via):
            return False
        self._counts[_ENDED] += 1
        return True

    def explain(self, guest: int, address: int, port: int, protocol: str, name: str) -> Decision:
        """Which rule decides about a flow (Policy.explain). Nothing is counted or logged."""
        return self.policy.explain(guest, address, port, protocol, monotonic(), name)

    @property
    def denies_quic(self) -> bool:
        """Whether a QUIC connection counts as one that states no name."""
        return not self._reads_quic

    def _load_quic(self) -> bool:
        """Whether names are read from QUIC. Loads what that needs: later this process may read no files."""
        if self._config.denies_quic or not has_names(self._config):
            return False
        if quic.load():
            return True
        self._log.warning("QUIC is refused: what reads names in it can only be loaded at the start")
        return False

    def refuses(self, guest: int, address: int, port: int, protocol: str) -> str:
        """What forbids a flow (Policy.refusal), "" if it is allowed. Counts and logs the refusal."""
        verdict = self.judge(guest, address, port, protocol)
        return "" if verdict.hold or verdict.allow else verdict.rule

    def judge(self, guest: int, address: int, port: int, protocol: str) -> Verdict:
        """What the policy says of a new flow. Counts and logs a refusal."""
        now = monotonic()
        verdict = self.policy.judge(guest, address, port, protocol, now)
        # A ping does not wait for an answer.
        waits = protocol != "icmp" and self.policy.asks(verdict)
        if not (verdict.hold or verdict.allow or waits):
            self._count(
                guest, ip.host_port(address, port) if port else ip.text(address), protocol, verdict, now
            )
        return verdict

    def over_quota(self, meter: Meter, ends: Ends, protocol: str) -> str:
        """The quota that refuses a new flow, "" if none does. Counts and logs that. meter: of the flow."""
        rule = meter.refusal()
        if rule:
            self._counts[_OVER_QUOTA] += 1
            self.refuse(ends, protocol, rule)
        return rule

    def ended_by_quota(self) -> None:
        """Count an open flow that ends because the bytes of its guest are used up."""
        self._counts[_QUOTA_ENDED] += 1

    def may_ask(self, ends: Ends, protocol: str) -> bool:
        """Whether the policy does not refuse such a flow without asking."""
        verdict = self.policy.judge(
            ends.guest_addr, ends.remote_addr, ends.remote_port, protocol, monotonic()
        )
        return verdict.allow or verdict.hold or self.policy.asks(verdict)

    def asks(self, verdict: Verdict) -> bool:
        """Whether somebody has to decide about a flow."""
        return self.policy.asks(verdict)

    def refuse(self, ends: Ends, protocol: str, rule: str) -> None:
        """Somebody, or nobody in time, has refused a flow that this rule asks about. Counts and logs it."""
        to = ip.host_port(ends.remote_addr, ends.remote_port)
        self._count(ends.guest_addr, to, protocol, Verdict(False, rule), monotonic())

    def decide(self, ends: Ends, protocol: str, stated: Stated, approval: Answer | None = None) -> Verdict:
        """What the policy says of a flow that was held, now that its name is known. Counts a refusal.

        approval: what somebody has said about it. Then the flow must not state another name.
        """
        now = monotonic()
        wrong = _ECH if stated.ech and self._config.denies_ech else ""
        if stated.protocol == QUIC and not stated.name and self.denies_quic:
            wrong = _QUIC
        asked = stated._replace(kind=CONTRADICTION) if wrong else stated
        # The address was one of the name's when the flow began. Its answer may have expired since.
        verdict = (
            self.policy.judge(
                ends.guest_addr, ends.remote_addr, ends.remote_port, protocol, float("-inf"), asked
            )
            if approval is None
            else Verdict(_states(asked, approval.name, ends.remote_port), approval.rule)
        )
        if verdict.allow:
            return verdict
        if wrong:
            verdict = verdict._replace(rule=wrong)
        self._counts[_CONTRADICTS] += 1
        to = ip.host_port(ends.remote_addr, ends.remote_port)
        self._count(ends.guest_addr, to, protocol, verdict, now, stated.name)
        return verdict

    def _count(
        self, guest: int, to: str, protocol: str, verdict: Verdict, now: float, stated: str = ""
    ) -> None:
        """Count a refusal, and log it if no other line of this guest is too young."""
        more = {"stated_name": stated} if stated else {}
        self._counts[_REFUSED] += 1
        if verdict.via is not None and protocol != "tcp":
            self._counts[_TCP_ONLY] += 1
            more["reason"] = "a proxy carries TCP alone"
        due, unlogged = self._logged.get(guest, (now, 0))
        if now < due:
            self._logged[guest] = due, unlogged + 1
            return
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged[guest] = now + LOG_SPACING, 0
        self._log.warning(
            "flow refused by the egress policy",
            guest_address=ip.text(guest),
            to=to,
            protocol=protocol,
            rule=verdict.rule,
            unlogged=unlogged,
            **more,
        )


def _states(stated: Stated, name: str, port: int) -> bool:
    """Whether a flow states this name, or speaks another protocol where it need not state any."""
    if stated.kind == NAME:
        return stated.name == name
    return stated.kind == OTHER and not has_port(WEB_PORTS, port)
