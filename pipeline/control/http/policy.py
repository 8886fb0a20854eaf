"""The paths of the egress policy. Only endpoints on the host have them.

Errors of these paths are JSON: ``error`` says what is wrong, and ``key`` what it is about in the body or the
query. The policy changes as a whole or not at all.
"""

import json
from collections.abc import Iterable
from typing import Final, NoReturn, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from pipeline.blake2 import blake2b
from pipeline.config import policy_json
from pipeline.config.errors import ConfigError
from pipeline.config.model import EgressPolicy
from pipeline.config.policy_json import PolicyError
from pipeline.control.http import answers, body, models
from pipeline.control.http.answers import READING, ApiError
from pipeline.control.http.explainer import Explainer, UnknownError
from pipeline.control.hub import Hub
from pipeline.control.reload import MakePolicy, ReloadError
from pipeline.control.threads import Threads
from pipeline.control.workers import RequestError

CONNECTIONS: Final = "connections"
CUT: Final = "cut"
KEEP: Final = "keep"


class Settings(Protocol):
    """Where the policy is (pipeline.control.reload.LiveSettings)."""

    @property
    def policy(self) -> EgressPolicy: ...

    async def change_policy(self, make: MakePolicy, *, cut: bool) -> int: ...


class ProblemError(Exception):
    """An answer that is an error, in JSON."""

    def __init__(self, status: int, text: str, key: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.key = key


class PolicyPaths:
    """The handlers."""

    def __init__(self, settings: Settings, explainer: Explainer, hub: Hub) -> None:
        self._hub = hub
        self._settings = settings
        self._explainer = explainer
        self._threads = Threads(1)
        """A long policy takes a second to check."""

    def paths(self) -> dict[str, Handler]:
        """The handlers by path."""
        return {"/policy": self._policy, "/policy/explain": self._explain}

    async def _policy(self, request: web.Request) -> web.Response:
        try:
            if request.method in READING:
                return self._shown()
            if request.method not in ("PUT", "PATCH"):
                raise ProblemError(405, "only GET, PUT and PATCH")
            return await self._changed(request)
        except ProblemError as problem:
            return problem_answer(problem)

    def _shown(self) -> web.Response:
        shown = policy_json.shown(self._settings.policy)
        response = answers.json(shown)
        response.headers["ETag"] = _tag(shown)
        return response

    async def _changed(self, request: web.Request) -> web.Response:
        cut = _cut(request.query.items())
        text = await read_body(request)
        expected = request.headers.get("If-Match", "*")

        async def make(policy: EgressPolicy) -> EgressPolicy:
            if expected not in ("*", _tag(policy_json.shown(policy))):
                raise ProblemError(412, "the policy has changed meanwhile")
            if request.method == "PATCH":
                return await self._threads.run(lambda: policy_json.patched(policy, text))
            return await self._threads.run(lambda: policy_json.read(text, policy))

        try:
            ended = await self._settings.change_policy(make, cut=cut)
        except ConfigError as error:
            found = error if isinstance(error, PolicyError) else policy_json.of_config(error)
            raise ProblemError(400, str(found), found.key) from None
        except ReloadError as error:
            raise ProblemError(503, str(error)) from None
        except (RequestError, OSError) as error:
            raise ProblemError(500, str(error)) from None
        policy = self._settings.policy
        self._hub.report(
            "policy-changed", operator=True, default=policy.default, rules=len(policy.rules), ended=ended
        )
        return answers.json(models.PolicyChanged(ended=ended).model_dump())

    async def _explain(self, request: web.Request) -> web.Response:
        try:
            if request.method != "POST":
                raise ProblemError(405, "only POST")
            asked = models.read_strictly(models.ExplainRequest, await read_body(request))
            found = await self._explainer.explain(self._settings.policy, asked)
        except models.FieldError as error:
            return problem_answer(ProblemError(400, str(error), error.key))
        except UnknownError as error:
            return problem_answer(ProblemError(404, str(error), error.key))
        except RequestError as error:
            return problem_answer(ProblemError(503, str(error)))
        except ProblemError as problem:
            return problem_answer(problem)
        return answers.json(found.model_dump())


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises ProblemError."""
    try:
        return await body.read(request)
    except ApiError as error:
        raise ProblemError(error.status, str(error)) from None
    except web.HTTPRequestEntityTooLarge:
        raise ProblemError(413, "the body is too long") from None


def _cut(query: Iterable[tuple[str, str]]) -> bool:
    """Whether connections that are no longer allowed end."""
    found = CUT
    for key, value in query:
        if key != CONNECTIONS:
            _refuse(key[:100], f"unknown key (allowed: {CONNECTIONS})")
        if value not in (CUT, KEEP):
            _refuse(key, f"must be {CUT} or {KEEP}, not {value[:100]!r}")
        found = value
    return found == CUT


def _refuse(key: str, text: str) -> NoReturn:
    raise ProblemError(400, text, key)


def _tag(shown: policy_json.Json) -> str:
    return f'"{blake2b(json.dumps(shown).encode(), digest_size=8).hexdigest()}"'


def problem_answer(problem: ProblemError) -> web.Response:
    """The error as an answer."""
    found = models.Problem(error=str(problem), key=problem.key)
    return answers.json(found.model_dump(), problem.status)
