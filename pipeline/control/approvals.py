"""Flows that wait for an approval: who asks, and the answers of clients of the API.

An answer holds once, for this question alone; for the session, which is a rule about the guest's link until
that ends; or always, which is a rule about all guests. These rules stand in the policy before the first one
that asks, so every worker follows them, and clients see them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import structlog

from pipeline.config.choices import ALLOW, ASK, DENY
from pipeline.config.errors import ConfigError
from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.config.scalars import Scalar, name_pattern
from pipeline.control.flows import known
from pipeline.control.flows.known import Known
from pipeline.control.hub import Hub
from pipeline.control.reload import LiveSettings, ReloadError
from pipeline.control.workers import Request, RequestError
from pipeline.engines.guest_set import LINK_MARK
from pipeline.ipc import policy_messages
from pipeline.ipc.flow_rows import OUT, FlowRow
from pipeline.ipc.message import MessageError
from pipeline.ipc.policy_messages import AskRow

ASKED: Final = "approval-asked"
TRY_AGAIN_S: Final = 1.0
"""Seconds until rules of a link that is gone are removed again, if a worker has refused that or has died."""
ONCE: Final = "once"
SESSION: Final = "session"
MAX_RULES: Final = 1000
"""Rules of a policy to which an answer may add one."""


class UnknownApprovalError(Exception):
    """No such flow waits."""


class TooManyRulesError(Exception):
    """The policy has MAX_RULES rules."""


class Waiting(NamedTuple):
    """A flow that waits. mac, name: "" if they are not known."""

    worker: str
    row: AskRow
    mac: str
    name: str

    @property
    def id(self) -> str:
        """What names the question."""
        return f"{self.worker}-{self.row.number}"

    @property
    def about(self) -> tuple[str, str, int, str]:
        """The same for all questions that one answer decides."""
        row = self.row
        return row.guest_address, self.name or row.address, row.port, row.protocol


class Approvals:
    """Asks egress workers, and gives them the answers."""

    def __init__(
        self,
        request: Request,
        egress_workers: Sequence[str],
        settings: LiveSettings,
        hub: Hub,
        log: structlog.typing.FilteringBoundLogger,
        is_up: Callable[[int], bool],
    ) -> None:
        """is_up: whether a link is up. The caller calls link_gone() when it is not any more."""
        self._request = request
        self._is_up = is_up
        self._workers = tuple(egress_workers)
        self._settings = settings
        self._hub = hub
        self._log = log
        self._of_links: dict[int, set[PolicyRule]] = {}
        """Rules that go with a link."""
        self._tasks: set[asyncio.Task[None]] = set()
        hub.complete([ASKED], self._on_asked)

    async def stop(self) -> None:
        """Publish nothing more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def all(self) -> list[Waiting]:
        """All flows that wait. Raises RequestError."""
        found: list[tuple[str, AskRow]] = []
        for worker in self._workers:
            answer = await self._request(worker, policy_messages.Asks())
            rows = policy_messages.AsksAnswer.decode(answer).asks
            found += [(worker, AskRow(*row)) for row in rows]  # type: ignore[arg-type]  # of our worker
        facts = await self._known([_flow_row(row.guest_address, row.address) for _, row in found])
        return [Waiting(worker, row, *_facts(facts, row.guest_address, row.address)) for worker, row in found]

    async def decide(self, name: str, *, allow: bool, scope: str) -> PolicyRule | None:
        """Answer a question. Returns the rule that was added to the policy, if any.

        Raises UnknownApprovalError, TooManyRulesError, ReloadError, RequestError.
        """
        waiting = await self.all()
        asked = next((each for each in waiting if each.id == name), None)
        if asked is None:
            raise UnknownApprovalError(f"no flow waits for {name[:100]!r}")
        if scope == SESSION and not self._is_up(asked.row.link):
            raise UnknownApprovalError(f"the guest's link is gone: {name[:100]!r}")
        rule = None if scope == ONCE else await self._add(asked, allow=allow, scope=scope)
        for each in waiting:
            if each.about == asked.about:
                ask = policy_messages.Decide(each.row.number, allow, each.name)
                await self._request(each.worker, ask)
        return rule

    async def _add(self, asked: Waiting, *, allow: bool, scope: str) -> PolicyRule:
        row = asked.row
        names = _names(asked.name)
        rule = PolicyRule(
            ALLOW if allow else DENY,
            guests=(f"{LINK_MARK}{row.link}",) if scope == SESSION else (),
            networks=() if names else (row.address,),
            names=names,
            ports=((row.port, row.port),),
            protocols=(row.protocol,),
        )

        async def make(policy: EgressPolicy) -> EgressPolicy:
            if len(policy.rules) >= MAX_RULES:
                raise TooManyRulesError(f"the policy has {MAX_RULES} rules: answer once, or change it")
            rules = [each for each in policy.rules if each != rule]
            at = next((at for at, each in enumerate(rules) if each.action == ASK), len(rules))
            return replace(policy, rules=(*rules[:at], rule, *rules[at:]))

        if scope == SESSION:
            # Before anything waits: the link may go at any time.
            self._of_links.setdefault(row.link, set()).add(rule)
        try:
            await self._settings.change_policy(make, cut=False)
        except ConfigError as error:
            raise ReloadError(str(error)) from None
        return rule

    def lasting(self, policy: EgressPolicy) -> EgressPolicy:
        """The policy without the rules that go with a link. Another program does not know which these are."""
        gone = {rule for rules in self._of_links.values() for rule in rules}
        return (
            replace(policy, rules=tuple(each for each in policy.rules if each not in gone))
            if gone
            else policy
        )

    # --- events -------------------------------------------------------------------------------

    def _on_asked(
        self, kind: str, fields: Mapping[str, object], *, at: float, worker: str, lost: int
    ) -> None:
        """A worker asks: publish it with what others know."""

        async def publish() -> None:
            guest, address = str(fields.get("guest_address")), str(fields.get("address"))
            mac, name = _facts(await self._known([_flow_row(guest, address)]), guest, address)
            whole = {**fields, "guest_mac": mac or None, "name": name or None}
            self._hub.publish(kind, whole, at=at, worker=worker, lost=lost)

        self._start(asyncio.get_running_loop().create_task(publish()))

    def link_gone(self, link: int) -> None:
        """A link is gone, and another guest may get its number: no rule is about it any more."""
        rules = self._of_links.pop(link, None)
        if rules is not None:
            self._start(asyncio.get_running_loop().create_task(self._remove(rules)))

    async def _remove(self, rules: set[PolicyRule]) -> None:
        async def make(policy: EgressPolicy) -> EgressPolicy:
            return replace(policy, rules=tuple(each for each in policy.rules if each not in rules))

        while True:
            try:
                await self._settings.change_policy(make, cut=False)
            except (ConfigError, ReloadError, RequestError) as error:
                self._log.error("rules of a link that is gone are still there", error=str(error))
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                return

    def _start(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _known(self, rows: list[FlowRow]) -> Known:
        if not rows:
            return Known({}, {})
        try:
            return await known.ask(self._request, rows)
        except (RequestError, MessageError):
            return Known({}, {})


def _flow_row(guest: str, address: str) -> FlowRow:
    return FlowRow(0, "tcp", OUT, 0, guest, 0, address, 0)


def _facts(found: Known, guest: str, address: str) -> tuple[str, str]:
    """MAC address and name."""
    mac, _ = found.guests.get(guest, ("", 0))
    return mac, found.names.get((guest, address), "")


def _names(name: str) -> tuple[str, ...]:
    """The name for a rule; none if no rule can have it."""
    try:
        return (name_pattern(Scalar(name, plain=False)),) if name else ()
    except ValueError:
        return ()
