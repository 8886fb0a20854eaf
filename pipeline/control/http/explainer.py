"""Says which rule decides about a guest and a destination, and why, for POST /policy/explain.

An egress worker answers by the rules that it applies. It knows the names that this guest got for addresses.
All egress workers know the same.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from pipeline.config import policy_json
from pipeline.config.choices import ASK, PROXY
from pipeline.config.model import EgressPolicy
from pipeline.control.guests import GuestSums
from pipeline.control.http.models import ExplainRequest, Explanation, FieldError, PassedRule
from pipeline.control.lookup import Lookups
from pipeline.control.workers import Request
from pipeline.counters import TABLE
from pipeline.ipc import policy_messages
from pipeline.topology import EGRESS

MAX_PASSED: Final = 100
"""Rules before the deciding one that an answer lists: the last ones."""
_HELP: Final = {counter.name: counter.help for counter in TABLE}
PRESET: Final = f"{policy_json.KEY}.preset"
QUOTAS: Final = f"{policy_json.KEY}.quotas["
_UNOWNED: Final = "nat_flow_refused_unowned"
_RULE: Final = re.compile(rf"{policy_json.KEY}\.rules\[([0-9]+)\]")


class UnknownError(Exception):
    """The guest or the name is not known. key: of the request."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class Explainer:
    """Asks the workers."""

    def __init__(self, request: Request, guests: GuestSums) -> None:
        self._request = request
        self._guests = guests
        self._lookups = Lookups()

    async def explain(self, policy: EgressPolicy, asked: ExplainRequest) -> Explanation:
        """What decides. Raises FieldError, UnknownError, RequestError."""
        if not asked.port and asked.protocol != "icmp":
            raise FieldError("port", f"is missing: {asked.protocol} needs 1 to 65535")
        name = asked.name.rstrip(".").lower()
        address = _address("address", asked.address) if asked.address else await self._look_up(name)
        guest = await self._guest(asked.guest)
        ask = policy_messages.Explain(guest, address, asked.port, asked.protocol, name)
        answer = policy_messages.ExplainAnswer.decode(await self._request(f"{EGRESS}0", ask))
        found = _RULE.fullmatch(answer.rule)
        shown = policy_json.shown(policy)["rules"]
        rules = shown if isinstance(shown, list) else []
        index = int(found[1]) if found else -1
        decides = rules[index] if 0 <= index < len(rules) else None
        asks = ", and asks" if decides is not None and decides["action"] == ASK else ""
        first = max(0, len(answer.passed) - MAX_PASSED)
        passed = list(enumerate(answer.passed))[first:]
        return Explanation(
            allowed=answer.allowed,
            depends=answer.depends is True,
            rule=answer.rule,
            why=_why(answer, len(rules)) + asks + _through(answer, decides),
            via=answer.via or "",
            decides=decides,
            guest=guest,
            address=address,
            passed=[PassedRule(rule=f"{policy_json.KEY}.rules[{at}]", part=part) for at, part in passed],
        )

    async def _look_up(self, name: str) -> str:
        """The first address of a name, as this host knows it."""
        if not name:
            raise FieldError("address", "is missing: address or name is needed")
        try:
            found = await self._lookups.addresses(name)
        except TimeoutError:
            found = []
        if not found:
            raise UnknownError("name", f"this host finds no address for {name[:100]!r}: use address too")
        return _address("name", found[0])

    async def _guest(self, text: str) -> str:
        """The address of a guest."""
        is_number = text.isascii() and text.isdigit()
        if not is_number and not re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){5}", text.lower(), re.ASCII):
            return _address("guest", text)
        for guest in await self._guests.all():
            addresses = guest["ip_addresses"]
            is_it = text == str(guest["guest"]) or text.lower() in _texts(guest["mac_addresses"])
            if is_it and isinstance(addresses, list) and addresses:
                return min(_texts(addresses), key=lambda address: ":" in address)
        raise UnknownError("guest", f"no guest {text!r} has an address")


def _texts(values: object) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else []


def _address(key: str, text: str) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        kinds = "an IP address, a MAC address or a number of /guests" if key == "guest" else "an IP address"
        raise FieldError(key, f"must be {kinds}, not {text[:100]!r}") from None
    # A zone says nothing here.
    return str(found).partition("%")[0]


def _through(answer: policy_messages.ExplainAnswer, decides: Mapping[str, object] | None) -> str:
    """What follows the reason of a rule that leads through a proxy."""
    if decides is None or decides["action"] != PROXY or answer.depends:
        return ""
    return f", and leads through {answer.via}" if answer.allowed else ", and its proxy carries TCP alone"


def _why(answer: policy_messages.ExplainAnswer, count: int) -> str:
    if answer.rule.startswith(QUOTAS):
        return "the guest has used up this quota, so it may open nothing"
    if answer.rule == PRESET:
        return f"none of the {count} rules fits, so the preset decides"
    if not answer.rule:
        return "a service of the gateway: the policy does not apply"
    if answer.rule == _UNOWNED:
        return "an address of the guests' own network: the key guests decides who sees whom, not the policy"
    if answer.rule in _HELP:
        return f"a built-in rule, counted as {answer.rule}: {_HELP[answer.rule]}"
    if answer.depends:
        return "the name that the connection states decides: ask with name"
    if _RULE.fullmatch(answer.rule):
        return f"rule {len(answer.passed)} is the first of {count} that fits"
    return f"none of the {count} rules fits, so the default decides" if count else "there are no rules"
