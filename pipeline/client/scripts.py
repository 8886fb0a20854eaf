"""The requests of each operation, without I/O, for the plain client and for the asynchronous one.

A script yields calls. Whoever runs it sends back the JSON of each answer, or throws RefusedError into it.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from pipeline.client.answers import Approval, Explanation, Flow, Forward, Guest, Policy, QuotaUse
from pipeline.client.api import ApiError
from pipeline.client.records import Record, records
from pipeline.config import forward_words
from pipeline.config.model import PortForward

EXPOSE: Final = "/services/forwarder/expose"
UNEXPOSE: Final = "/services/forwarder/unexpose"

Connections: TypeAlias = Literal["cut", "keep"]
"""What happens to open connections that a new policy forbids."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. body: for JSON, None for a request without one."""

    method: str
    target: str
    body: object = None


Script: TypeAlias = Generator[Call, object, _T]
"""Yields calls, gets the JSON of their answers, and returns the result."""


def version() -> Script[str]:
    """The version of the daemon. When it answers, all its sockets are open."""
    return Record((yield Call("GET", "/version"))).text("version")


def status() -> Script[Mapping[str, object]]:
    """What ``gvtap-pipeline status -json`` prints."""
    answer = yield Call("GET", "/status")
    return answer if isinstance(answer, dict) else {}


def guests() -> Script[list[Guest]]:
    """All guests."""
    answer = yield Call("GET", "/guests")
    return [Guest.of(each) for each in records(answer)]


def leases() -> Script[dict[str, str]]:
    """MAC address by IP address."""
    answer = yield Call("GET", "/leases")
    return {str(address): str(mac) for address, mac in answer.items()} if isinstance(answer, dict) else {}


def flows(guest: str, protocol: str, host: str, port: int, limit: int) -> Script[list[Flow]]:
    """Open flows. An empty filter fits all of them (docs/flows.md)."""
    query = {"guest": guest, "protocol": protocol, "host": host, "port": port, "limit": limit}
    given = {key: value for key, value in query.items() if value}
    answer = yield Call("GET", f"/flows?{urlencode(given)}")
    return [Flow.of(each) for each in Record(answer).records("flows")]


def end_flow(flow: Flow | str) -> Script[None]:
    """End a flow, or the one with this id."""
    name = flow.id if isinstance(flow, Flow) else flow
    yield Call("DELETE", f"/flows/{quote(name, safe='')}")


def forwards() -> Script[list[Forward]]:
    """All open forwards."""
    answer = yield Call("GET", "/services/forwarder/all")
    return [Forward.of(each) for each in records(answer)]


def expose(word: str) -> Script[list[Forward]]:
    """Open all forwards that the word means, or none."""
    wanted = forward_words.forwards(word, "")
    guest = ""
    if any(forward.remote.startswith(":") for forward in wanted):
        guest = Record((yield Call("GET", "/status"))).record("network").text("guest")
    opened: list[Forward] = []
    for forward in wanted:
        try:
            answer = yield _expose(forward, guest)
        except ApiError:
            for each in opened:
                yield Call("POST", UNEXPOSE, {"local": each.local, "protocol": each.protocol})
            raise
        # The answer is empty, unless the system has chosen the port.
        local = Record(answer).text("local") or forward.local
        opened.append(Forward(local, _remote(forward, guest), forward.protocol))
    return opened


def _expose(forward: PortForward, guest: str) -> Call:
    remote = _remote(forward, guest)
    asked = {"local": forward.local, "remote": remote, "protocol": forward.protocol}
    return Call("POST", EXPOSE, asked)


def _remote(forward: PortForward, guest: str) -> str:
    return f"{guest}{forward.remote}" if forward.remote.startswith(":") else forward.remote


def unexpose(word: str) -> Script[None]:
    """Close all forwards that the word means."""
    for local in forward_words.locals_of(word):
        yield Call("POST", UNEXPOSE, {"local": local.address, "protocol": local.protocol})


def add_zone(name: str, hosts: Mapping[str, str]) -> Script[None]:
    """Add names to a zone of the name server. hosts: IP address by name."""
    listed = [{"Name": host, "IP": address} for host, address in hosts.items()]
    yield Call("POST", "/services/dns/add", {"Name": name, "Records": listed})


def policy() -> Script[Policy]:
    """The egress policy."""
    answer = yield Call("GET", "/policy")
    return answer if isinstance(answer, dict) else {}  # type: ignore[return-value]  # of any version


def set_policy(method: Literal["PUT", "PATCH"], wanted: Policy, connections: Connections) -> Script[int]:
    """Replace the policy, or some of its keys. Returns how many connections were cut."""
    target = "/policy?connections=keep" if connections == "keep" else "/policy"
    answer = yield Call(method, target, wanted)
    return int(Record(answer).number("ended"))


def explain(guest: str, host: str, port: int, protocol: str, name: str) -> Script[Explanation]:
    """Which rule decides."""
    asked: dict[str, object] = {"guest": guest, "port": port, "protocol": protocol, "name": name}
    # A name has a letter after its last dot, and no colon.
    is_address = ":" in host or host.rpartition(".")[2].isdigit()
    answer = yield Call(
        "POST", "/policy/explain", asked | ({"address": host} if is_address else {"name": host})
    )
    return Explanation.of(Record(answer))


def approvals() -> Script[list[Approval]]:
    """All flows that wait for an approval."""
    answer = yield Call("GET", "/approvals")
    return [Approval.of(each) for each in records(answer)]


def decide(approval: Approval | str, *, allow: bool, scope: str) -> Script[None]:
    """Answer a question, or the one with this id."""
    name = approval.id if isinstance(approval, Approval) else approval
    yield Call("POST", f"/approvals/{quote(name, safe='')}", {"allow": allow, "scope": scope})


def quotas() -> Script[list[QuotaUse]]:
    """What guests have used of their quotas."""
    answer = yield Call("GET", "/quotas")
    return [QuotaUse.of(each) for each in records(answer)]


def reset_quotas(guest: str, per: str) -> Script[int]:
    """Let what a guest has used begin at zero. Returns how many accounts did."""
    answer = yield Call("POST", "/quotas/reset", {"guest": guest, "per": per})
    return int(Record(answer).number("accounts"))


def events(kinds: Sequence[str]) -> Call:
    """The stream of events."""
    return Call("GET", f"/events?{urlencode({'kinds': ','.join(kinds)})}" if kinds else "/events")
