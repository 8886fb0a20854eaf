"""Keeps what guests have used of their quotas: asks the workers once a second, and tells each of the others.

While the egress policy has no quota, nobody is asked. What was counted stays known, also over a restart of
the program, and in the ``quota-file`` if there is one.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import time
from typing import Final, NamedTuple

import structlog

from pipeline.config.model import Quota
from pipeline.control.hub import Hub
from pipeline.control.quotas import quota_file
from pipeline.control.quotas.ledger import Bound, Entry, Ledger, Saved, period_end
from pipeline.control.workers import Request, RequestError
from pipeline.engines.guest_set import LINK_MARK
from pipeline.ipc import messages, policy_messages
from pipeline.ipc.policy_messages import UseRow
from pipeline.system.peer import PROCESS_MARK
from pipeline.system.process_state import started_at
from pipeline.topology import EGRESS, INGRESS, RESOLVER

EVERY_S: Final = 1.0
"""Seconds between two questions to all workers. A worker that dies loses what it has counted since."""
SAVE_EVERY_S: Final = 10.0
SETTLE_S: Final = 1.0
"""Seconds that the workers have for their last answer."""
USED_UP: Final = "quota-used-up"


class Use(NamedTuple):
    """What a subject has used. guests: numbers of guests that have this account. ends_at: of the period."""

    entry: Entry
    guests: list[int]
    ends_at: str
    bounds: list[Bound]


class QuotaKeeper:
    """The quotas of one network. It needs a running event loop."""

    def __init__(
        self,
        request: Request,
        workers: Sequence[str],
        quotas: Callable[[], Sequence[Quota]],
        hub: Hub,
        log: structlog.typing.FilteringBoundLogger,
        path: str = "",
    ) -> None:
        """workers: all of them. quotas: those of the present policy. path: of the file, "" for none."""
        self._request = request
        self._counting = [name for name in workers if name == RESOLVER or name.startswith(EGRESS)]
        self._quotas = quotas
        self._seen: Sequence[Quota] = ()
        self._hub = hub
        self._log = log
        self._path = path
        self._writer = quota_file.QuotaWriter(path, log)
        self._ledger = Ledger()
        self._turn = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._restored = False
        self._left = False
        """Whether another process goes on."""
        self._saved: list[Saved] = []
        self._save_at = 0.0

    async def start(self) -> None:
        """Read the file, tell the workers what is known, and ask them from now on. Raises QuotaFileError."""
        if self._path and not self._restored:
            self._ledger.restore(quota_file.load(self._path), time())
        await self._look()
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def wake(self) -> None:
        """The policy may have other quotas, or a worker has begun anew."""
        self._wanted.set()

    async def stop(self) -> None:
        """The program ends: write the file."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._path:
            self._save(time(), at_once=True)
        await self._writer.close()

    def leave(self) -> None:
        """Another process goes on with what saved() has returned."""
        self._left = True
        self._path = ""
        self._writer.leave()
        if self._task is not None:
            self._task.cancel()

    # --- what clients ask ---------------------------------------------------------------------

    async def all(self) -> list[Use]:
        """What was used, as of now."""
        await self._look()
        quotas, now = self._quotas(), time()
        return [
            Use(
                entry,
                self._ledger.numbers_of(entry.subject),
                period_end(entry.per, now),
                list(entry.bounds(quotas)),
            )
            for entry in self._ledger.entries()
        ]

    async def reset(self, guest: str, per: str = "") -> int:
        """Begin the accounts of a subject again, or all. guest: a subject, a guest's number, or "" for all.

        per: "" for all periods. Returns how many.
        """
        await self._look()
        subjects = [
            entry.subject
            for entry in self._ledger.entries()
            if guest in (entry.subject, *map(str, self._ledger.numbers_of(entry.subject)))
        ]
        count = self._ledger.reset(subjects, per) if subjects or not guest else 0
        await self._look()
        if count:
            self._save(time(), at_once=True)
        return count

    def link_gone(self, link: int) -> None:
        """A link is gone, and another guest may get its number."""
        if self._ledger.reset([f"{LINK_MARK}{link}"], ""):
            self.wake()

    # --- workers ------------------------------------------------------------------------------

    def for_worker(self, name: str) -> policy_messages.Count | None:
        """What a worker that begins anew has to be told before it serves guests; None for nothing."""
        if name not in self._counting or not self._quotas():
            return None
        self._ledger.restarted(name)
        return policy_messages.Count(self._ledger.news(name), [])

    async def _serve(self) -> None:
        while True:
            try:
                async with asyncio.timeout(EVERY_S if self._quotas() else None):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                await self._look()
            except Exception as error:  # a fault here must not end the control plane, nor the next look
                self._log.exception("quotas cannot be added up", error=str(error))
                await asyncio.sleep(EVERY_S)

    async def _look(self) -> None:
        """Ask all workers, and tell them what has changed."""
        async with self._turn:
            quotas, now = self._quotas(), time()
            if quotas != self._seen:
                self._ledger.forget_quotas()
                self._seen = quotas
            if not quotas:
                return
            knows_guests = await self._ask_guests()
            self._ledger.turn(now)
            for name in self._counting:
                with suppress(RequestError):  # it has died, and its successor is told everything
                    gone = self._ledger.gone(name) if knows_guests else []
                    await self._count(name, policy_messages.Count(self._ledger.news(name), gone), now)
                    self._ledger.settle(name, gone)
            # A second time for what the others have not known: what an account has used may end flows.
            for name in self._counting:
                if news := self._ledger.news(name):
                    with suppress(RequestError):
                        await self._count(name, policy_messages.Count(news, []), now)
            self._report(quotas)
            self._save(now)

    async def _ask_guests(self) -> bool:
        """Learn which guests there are. False if ingress has died: then it is those of before."""
        try:
            answer = messages.GuestsAnswer.decode(await self._request(INGRESS, messages.Guests()))
        except RequestError:
            return False
        peers = answer.peers or {}
        self._ledger.set_guests({int(number): peers.get(number, "") for number in {*answer.guests, *peers}})
        processes = self._ledger.processes()
        self._ledger.mark({name: started_at(int(name.removeprefix(PROCESS_MARK))) for name in processes})
        return True

    async def _count(self, name: str, ask: policy_messages.Count, now: float) -> None:
        answer = policy_messages.CountAnswer.decode(await self._request(name, ask))
        rows = [UseRow(*row) for row in answer.rows]  # type: ignore[arg-type]  # of our worker
        if not self._ledger.on_report(name, answer.incarnation, rows, now):
            await self._request(name, policy_messages.Count(self._ledger.news(name), []))

    def _report(self, quotas: Sequence[Quota]) -> None:
        """Report what is used up since the last look."""
        for entry in self._ledger.entries():
            for bound in entry.bounds(quotas):
                what = (bound.rule, bound.limit)
                if not bound.is_used_up:
                    entry.noticed.discard(what)
                elif what not in entry.noticed:
                    entry.noticed.add(what)
                    self._hub.report(
                        USED_UP,
                        guest=entry.subject,
                        guests=self._ledger.numbers_of(entry.subject),
                        per=entry.per,
                        rule=bound.rule,
                        limit=bound.limit,
                        most=bound.most,
                    )

    # --- what outlives the program --------------------------------------------------------------

    async def settle(self) -> None:
        """The workers are about to end or to pause: ask them for the last time, if they answer soon."""
        if not self._left:
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    await self._look()

    def saved(self) -> list[Saved]:
        """All that a successor of this program has to know."""
        return self._ledger.saved(numbers=True)

    def restore(self, rows: Sequence[Saved]) -> None:
        """A predecessor has known this, which is newer than the file. Before start()."""
        self._restored = True
        self._ledger.restore(rows, time())

    def _save(self, now: float, *, at_once: bool = False) -> None:
        if not self._path or (now < self._save_at and not at_once):
            return
        rows = self._ledger.saved(numbers=False)
        if rows != self._saved:
            self._saved = rows
            self._save_at = now + SAVE_EVERY_S
            self._writer.put(quota_file.content(rows))
