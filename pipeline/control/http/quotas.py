"""The paths of quotas: what guests have used. Only endpoints on the host have them."""

from aiohttp import web
from aiohttp.typedefs import Handler

from pipeline.control.http import answers, models
from pipeline.control.http.answers import READING
from pipeline.control.http.policy import ProblemError, problem_answer, read_body
from pipeline.control.hub import Hub
from pipeline.control.quotas.keeper import QuotaKeeper, Use


class QuotaPaths:
    """The handlers."""

    def __init__(self, quotas: QuotaKeeper, hub: Hub) -> None:
        self._quotas = quotas
        self._hub = hub

    def paths(self) -> dict[str, Handler]:
        """The handlers by path."""
        return {"/quotas": self._all, "/quotas/reset": self._reset}

    async def _all(self, request: web.Request) -> web.Response:
        if request.method not in READING:
            return problem_answer(ProblemError(405, "only GET and HEAD"))
        return answers.json([_shown(use).model_dump() for use in await self._quotas.all()])

    async def _reset(self, request: web.Request) -> web.Response:
        try:
            if request.method != "POST":
                raise ProblemError(405, "only POST")
            asked = models.read_strictly(models.QuotaResetRequest, await read_body(request))
            count = await self._quotas.reset(asked.guest, asked.per)
            if asked.guest and not count:
                raise ProblemError(404, f"nothing is known of {asked.guest[:100]!r}", "guest")
        except ProblemError as problem:
            return problem_answer(problem)
        except models.FieldError as error:
            return problem_answer(ProblemError(400, str(error), error.key))
        about = {"guest": asked.guest or None, "per": asked.per or None}
        self._hub.report("quota-reset", operator=True, **about, accounts=count)
        return answers.json(models.QuotaReset(accounts=count).model_dump())


def _shown(use: Use) -> models.QuotaUse:
    entry = use.entry
    from_guest, to_guest, connections, questions = entry.sums
    return models.QuotaUse(
        guest=entry.subject,
        guests=use.guests,
        per=entry.per,
        ends_at=use.ends_at or None,
        bytes_from_guest=from_guest,
        bytes_to_guest=to_guest,
        connections=connections,
        dns_questions=questions,
        quotas=[
            models.QuotaLimit(
                rule=bound.rule,
                limit=bound.limit,
                most=bound.most,
                left=max(0, bound.most - bound.used),
            )
            for bound in use.bounds
        ],
    )
