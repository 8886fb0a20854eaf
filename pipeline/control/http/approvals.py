"""The paths of approvals. Only endpoints on the host have them. Errors are those of the policy's paths."""

from aiohttp import web
from aiohttp.typedefs import Handler

from pipeline.control.approvals import Approvals, TooManyRulesError, UnknownApprovalError, Waiting
from pipeline.control.http import answers, models
from pipeline.control.http.answers import READING
from pipeline.control.http.policy import ProblemError, problem_answer, read_body
from pipeline.control.reload import ReloadError
from pipeline.control.workers import RequestError


class ApprovalPaths:
    """The handlers."""

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals

    def paths(self) -> dict[str, Handler]:
        """The handlers by path."""
        return {"/approvals": self._all, "/approvals/{id}": self._decide}

    async def _all(self, request: web.Request) -> web.Response:
        try:
            if request.method not in READING:
                raise ProblemError(405, "only GET and HEAD")
            waiting = await self._approvals.all()
        except ProblemError as problem:
            return problem_answer(problem)
        except RequestError as error:
            return problem_answer(ProblemError(503, str(error)))
        return answers.json([_shown(each).model_dump() for each in waiting])

    async def _decide(self, request: web.Request) -> web.Response:
        try:
            if request.method != "POST":
                raise ProblemError(405, "only POST")
            asked = models.read_strictly(models.ApprovalRequest, await read_body(request))
            name = request.match_info["id"]
            rule = await self._approvals.decide(name, allow=asked.allow, scope=asked.scope)
        except ProblemError as problem:
            return problem_answer(problem)
        except models.FieldError as error:
            return problem_answer(ProblemError(400, str(error), error.key))
        except UnknownApprovalError as error:
            return problem_answer(ProblemError(404, str(error)))
        except TooManyRulesError as error:
            return problem_answer(ProblemError(409, str(error)))
        except (ReloadError, RequestError) as error:
            return problem_answer(ProblemError(503, str(error)))
        return answers.json(models.ApprovalGiven(rule_added=rule is not None).model_dump())


def _shown(waiting: Waiting) -> models.Approval:
    row = waiting.row
    return models.Approval(
        id=waiting.id,
        guest=row.guest,
        guest_mac=waiting.mac or None,
        guest_address=row.guest_address,
        address=row.address,
        port=row.port,
        protocol=row.protocol,
        name=waiting.name or None,
        rule=row.rule,
        seconds=row.seconds,
    )
