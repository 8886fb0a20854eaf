"""Says which rule decides about a flow that a guest may ask for, in the order in which egress asks them."""

from typing import Final

from pipeline.engines.nat import Target
from pipeline.ipc import policy_messages
from pipeline.stages.egress.context import EgressContext
from pipeline.wire import ip

SERVICE: Final = ""
"""In place of a rule: the gateway itself serves the flow, and the policy does not apply."""


def of(context: EgressContext, ask: policy_messages.Explain) -> policy_messages.ExplainAnswer:
    """The answer: the built-in rules come first, then the policy."""
    guest, addr = ip.parse(ask.guest), ip.parse(ask.address)
    target = _target(context, addr, ask)
    if target.refused:
        return policy_messages.ExplainAnswer(False, target.refused, [])
    if target.service:
        return policy_messages.ExplainAnswer(True, SERVICE, [])
    found = context.policy.explain(guest, addr, ask.port, ask.protocol, ask.name)
    verdict = found.verdict
    used_up = _used_up(context, guest) if verdict.allow or verdict.hold else ""
    if used_up:
        return policy_messages.ExplainAnswer(False, used_up, list(found.passed))
    via = verdict.via.text if verdict.via is not None and verdict.allow else ""
    return policy_messages.ExplainAnswer(verdict.allow, verdict.rule, list(found.passed), verdict.hold, via)


def _used_up(context: EgressContext, guest: int) -> str:
    """The quota that refuses any new flow of the guest with this address."""
    station = context.policy.stations.station_of(guest)
    if station is None:
        return ""
    meter = context.policy.quotas.meter(context.bound.guest_of(station[1]), guest)
    return meter.refusal() if meter is not None else ""


def _target(context: EgressContext, addr: int, ask: policy_messages.Explain) -> Target:
    if ask.protocol == "icmp":
        return context.targets.icmp_target(addr)
    if ask.protocol == "udp":
        return context.targets.udp_target(addr, ask.port)
    return context.targets.tcp_target(addr, ask.port)
