"""The egress policy as JSON: clients of the API write and read it as it stands in a file at `egress-policy`.

Values are checked by the same rules as those of a file. An unknown key is an error here, since a restriction
would be missing. All keys are relative to the policy: ``rules[0].ports[1]``.
"""

import json
from dataclasses import replace
from functools import cache
from typing import Any, Final, NoReturn

from pydantic import TypeAdapter, ValidationError

from pipeline.config.access import check_policy
from pipeline.config.errors import ConfigError
from pipeline.config.mistakes import Data, Document, path_text, unknown_keys, wording
from pipeline.config.model import EgressPolicy, PolicyRule, Quota
from pipeline.config.scalars import Scalar
from pipeline.engines.proxy import via
from pipeline.go import flags

KEY: Final = "egress-policy"
"""The policy's key in a file. Names of rules begin with it."""
MAX_DEPTH: Final = 8
_MAX_SHOWN: Final = 100
_DEFAULT: Final = EgressPolicy(rules=(PolicyRule("allow"),), quotas=(Quota(),))
_NONE: Final = EgressPolicy()

Json = dict[str, object]


class PolicyError(ConfigError):
    """The policy is refused. key: what is wrong, "" if it is the body as a whole."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


@cache
def _adapter() -> TypeAdapter[EgressPolicy]:
    return TypeAdapter(EgressPolicy)


def read(body: bytes, known: EgressPolicy = _NONE) -> EgressPolicy:
    """The policy in a body. known: has the passwords that shown() has left out. Raises PolicyError."""
    return _checked(_map_of(body), known)


def patched(policy: EgressPolicy, body: bytes) -> EgressPolicy:
    """The policy after a JSON merge patch (RFC 7396): null removes a key, a list is replaced as a whole.

    Raises PolicyError.
    """
    patch = _map_of(body)
    _data(patch, ())  # so that it is not too deep
    return _checked(_merged(written(policy), patch), policy)


def written(policy: EgressPolicy) -> Json:
    """The policy as read() takes it. Keys that have their defaults are left out, but not the first two."""
    made, default = _dumped(policy), _dumped(_DEFAULT)
    rules, quotas = (
        [_changed(each, default[key][0], always) for each in made[key]]
        for key, always in (("rules", "action"), ("quotas", ""))
    )
    shown = {
        key: value for key, value in made.items() if key in ("default", "rules") or value != default[key]
    }
    shown |= {"rules": rules, "quotas": quotas}
    if not quotas:
        del shown["quotas"]
    return shown


def _changed(keys: Json, default: Json, always: str) -> Json:
    """The keys whose values are not the default, and this one."""
    return {key: value for key, value in keys.items() if key == always or value != default[key]}


def shown(policy: EgressPolicy) -> Json:
    """The same for people and programs that read it: no URL has its password (pipeline.engines.proxy.via)."""
    return written(replace(policy, rules=tuple(_without_password(rule) for rule in policy.rules)))


def _without_password(rule: PolicyRule) -> PolicyRule:
    return replace(rule, via=via.hidden(rule.via)) if rule.via else rule


def _with_passwords(policy: EgressPolicy, known: EgressPolicy) -> EgressPolicy:
    """The policy, with the passwords of a known one where shown() has left them out."""
    if not any(via.is_hidden(rule.via) for rule in policy.rules):
        return policy
    urls: dict[str, set[str]] = {}
    for rule in known.rules:
        if rule.via:
            urls.setdefault(via.hidden(rule.via), set()).add(rule.via)
    return replace(policy, rules=tuple(_with_password(rule, urls, known) for rule in policy.rules))


def _with_password(rule: PolicyRule, urls: dict[str, set[str]], known: EgressPolicy) -> PolicyRule:
    """The rule with its password, if there is only one that it can be. urls: by what hidden() makes."""
    found = urls.get(rule.via, set())
    if len(found) > 1:
        # One user with several passwords at one proxy: only a rule that has not changed says which it is.
        found = {each.via for each in known.rules if each.via in found and _without_password(each) == rule}
    return replace(rule, via=next(iter(found))) if len(found) == 1 else rule


def _dumped(policy: EgressPolicy) -> dict[str, Any]:
    made: dict[str, Any] = _adapter().dump_python(policy, mode="json", by_alias=True, warnings="error")
    return made


def _checked(found: Json, known: EgressPolicy) -> EgressPolicy:
    data = _data(found, ())
    try:
        policy = _adapter().validate_python(data)
    except ValidationError as errors:
        path, words = wording(errors.errors()[0])
        raise PolicyError(path_text(path), words) from None
    if unknown := unknown_keys(policy, data, (), Document({}, {})):
        raise PolicyError(path_text(unknown[0].path), f"unknown key{unknown[0].hint}")
    try:
        return check_policy(_with_passwords(policy, known))
    except ConfigError as error:
        raise of_config(error) from None


def of_config(error: ConfigError) -> PolicyError:
    """The same error, whose text begins with a key of a file."""
    where, colon, words = str(error).partition(": ")
    known = bool(colon) and where.startswith(KEY)
    return (
        PolicyError(where.removeprefix(KEY).removeprefix("."), words)
        if known
        else PolicyError("", str(error))
    )


def _map_of(body: bytes) -> Json:
    try:
        found: object = json.loads(body, object_pairs_hook=_without_twins, parse_constant=_no_number)
    except RecursionError:
        raise PolicyError("", _too_deep()) from None
    except ValueError as error:
        raise PolicyError("", f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise PolicyError("", 'the body must be an object such as {"default": "deny", "rules": []}')
    return found


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise PolicyError(key[:_MAX_SHOWN], "stands twice (allowed: once)")
        found[key] = value
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _too_deep() -> str:
    return f"nested deeper than {MAX_DEPTH} levels"


def _data(value: object, path: tuple[str | int, ...]) -> Data:
    """A value of JSON as a file would have it."""
    if len(path) > MAX_DEPTH:
        raise PolicyError(path_text(path), _too_deep())
    match value:
        case dict():
            return {
                Scalar(_encodable(key, path), plain=True): _data(inner, (*path, key))
                for key, inner in value.items()
                if inner is not None
            }
        case list():
            return [_data(inner, (*path, at)) for at, inner in enumerate(value)]
        case str():
            return Scalar(_encodable(value, path), plain=False)
        case bool():
            return Scalar("true" if value else "false", plain=True)
        case None:
            return Scalar("", plain=True)
    return Scalar(repr(value), plain=True)


def _encodable(text: str, path: tuple[str | int, ...]) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PolicyError(path_text(path), f"must be a text of Unicode, not {flags.quote(text)}") from None
    return text


def _merged(target: object, patch: object) -> Json:
    found = dict(target) if isinstance(target, dict) else {}
    assert isinstance(patch, dict)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            found[key] = _merged(found.get(key), value)
        else:
            found[key] = value
    return found
