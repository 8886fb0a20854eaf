"""The events about the egress policy itself. Flows that it refuses are in flows.py."""

from typing import Final

from pipeline.events.kind import INFO, WARNING, Kind, published

KINDS: Final[tuple[Kind, ...]] = (
    published(
        *("policy-changed", INFO, "egress policy changed"),
        "A client of the API has changed the egress policy.",
        default="allow or deny",
        rules="number of rules",
        ended="open flows that it forbids, and that were ended",
    ),
    published(
        *("approval-asked", INFO, "flow waits for an approval"),
        "A rule with the action ask fits a new flow of a guest. POST /approvals/ID decides.",
        id="of the question",
        guest="number of the guest, as in /guests",
        guest_mac="MAC address of the guest, null if it is not known",
        guest_address="address of the guest",
        address="destination",
        port="its port",
        protocol="tcp or udp",
        name="DNS name for which the guest got the address from the gateway, null without one",
        rule="egress-policy.rules[N]",
        seconds="until the answer is no",
    ),
    published(
        *("proxy-failed", WARNING, "proxy has not opened a tunnel"),
        "A rule leads a connection through a proxy, and the proxy has not led it on. The guest gets a reset.",
        guest="number of the guest, as in /guests",
        guest_address="address of the guest",
        address="destination",
        port="its port",
        name="what the proxy was asked for, null if it was the address",
        rule="egress-policy.rules[N]",
        proxy="the proxy, without user and password",
        reason="what went wrong",
        errno="name of the error, such as ECONNREFUSED",
    ),
    published(
        *("quota-used-up", WARNING, "a guest has used up a quota"),
        "Until the period ends, or somebody resets the quota, further flows or questions are refused.",
        guest="whose account it is: a word of the quota's guests, else what has opened the guest's links",
        guests="numbers of the guests that are there and have this account, as in /guests",
        per="life, hour, day or month",
        rule="egress-policy.quotas[N]",
        limit="the key of the quota: bytes, bytes-from-guest, bytes-to-guest, connections or dns-questions",
        most="what it allows",
    ),
    published(
        *("quota-reset", INFO, "quotas reset"),
        "A client of the API has reset what guests have used.",
        guest="whose account it is, null for all",
        per="life, hour, day or month, null for all periods",
        accounts="how many accounts",
    ),
    published(
        *("approval-decided", INFO, "approval decided"),
        "A flow waits for an approval no longer.",
        id="of the question",
        allowed="whether it may be opened",
        by="client, timeout, or gone: the guest's link has ended",
    ),
)
