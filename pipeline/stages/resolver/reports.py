"""The events of the resolver: leases and answered questions."""

from typing import Final

from pipeline.engines.dhcp.lease import Change
from pipeline.engines.dns import answers
from pipeline.engines.dns.filters import FORBIDDEN
from pipeline.events.network import CACHE, MAX_ADDRESSES, ZONE
from pipeline.stages.reporter import Reporter
from pipeline.wire import ethernet, ip

QUESTION: Final = "question-answered"
RULES: Final = {FORBIDDEN: "egress-policy.rebinding"}
"""What has refused an answer, by its counter."""
SOURCES: Final = {"dns_query_answered_local": ZONE, "dns_query_answered_from_cache": CACHE}
"""Where an answer comes from that the name server gives at once, by its counter."""


def report_lease(events: Reporter, change: Change, guest: int, link: int) -> None:
    """A message of DHCP or DHCPv6 has changed a lease."""
    if not events.wants(change.kind):
        return
    fields: dict[str, object] = {
        "guest": guest,
        "link": link,
        "mac": ethernet.mac_text(change.mac),
        "address": ip.text(change.addr) if change.addr else None,
        "host_name": change.host_name.decode("utf-8", "backslashreplace") or None,
    }
    if change.kind in ("lease-given", "lease-renewed"):
        fields["seconds"] = change.seconds or None
    elif change.kind == "lease-refused":
        fields["reason"] = change.reason
    events.report(change.kind, **fields)


def report_answer(
    events: Reporter,
    payload: bytes,
    *,
    guest: int,
    address: int,
    transport: str,
    source: str,
    seconds: float | None,
    rule: str,
) -> None:
    """The reply ``payload`` is about to be sent to a guest with this number and address.

    rule: what has refused the question, or its answer; "" if nothing has.
    """
    found = answers.summary(payload, MAX_ADDRESSES)
    events.report(
        QUESTION,
        guest=guest,
        guest_address=ip.text(address),
        transport=transport,
        name=found.name[:-1] or found.name,  # without the dot at its end, as the names of flows
        type=found.rdtype,
        rcode=found.rcode,
        answers=found.records,
        addresses=found.addresses,
        rule=rule or None,
        source=source,
        seconds=None if seconds is None else round(seconds, 6),
    )
