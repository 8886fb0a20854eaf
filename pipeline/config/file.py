"""Reads the YAML configuration file. Errors name the key and its line.

A scalar stays a text until the schema (keys.py) says what it is. So a MAC address of digits
(``10:11:11:11:11:11``) does not become a number to base 60. A wrong value raises ConfigError, which says what
is allowed. An unknown key is only reported, with the nearest known key, since gvproxy ignores it. merge.py
merges the file with the flags.
"""

import difflib
from dataclasses import fields, is_dataclass
from typing import Final, NamedTuple, TypeAlias

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.errors import ConfigError
from pipeline.config.keys import FileKeys, Map, dashed
from pipeline.config.scalars import Scalar
from pipeline.config.schema import adapter
from pipeline.go import flags

MAX_DEPTH: Final = 32

_NULL_TAG: Final = "tag:yaml.org,2002:null"

Path = tuple[str | int, ...]
Data: TypeAlias = "Scalar | list[Data] | dict[str, Data]"


class Document(NamedTuple):
    """A file as read: nested dicts and lists of Scalar, and the line of each path."""

    data: dict[str, "Data"]
    lines: dict[Path, int]


def read(text: str) -> tuple[FileKeys, tuple[str, ...]]:
    """The file's content and a note for each unknown key. Raises ConfigError, which has all mistakes."""
    document = parse(text)
    try:
        keys = adapter().validate_python(document.data)
    except ValidationError as errors:
        raise _mistakes(errors, document) from None
    unknown = _unknown_keys(keys, document.data, (), document)
    if any(each.restricts for each in unknown):
        text = next(f"yaml: {each.text}" for each in unknown if each.restricts)
        raise ConfigError(text, [each.text for each in unknown])
    _name_settings(keys, document.data)
    return keys, tuple(each.text for each in unknown)


def _name_settings(keys: Map, data: dict[str, Data]) -> None:
    """Note in each map which of its settings the file names."""
    names = {name: data[key] for key, name in _fields(keys).items() if key in data}
    object.__setattr__(keys, "named", frozenset(names))  # it is not a field, so the map is still the same
    for name, inner in names.items():
        value = getattr(keys, name)
        if isinstance(value, Map) and isinstance(inner, dict):
            _name_settings(value, inner)


def parse(text: str) -> Document:
    """YAML text without a schema. Raises ConfigError with the parser's words and the line."""
    lines: dict[Path, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        data = {} if node is None or node.tag == _NULL_TAG else _plain(loader, node, (), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"yaml: {where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"yaml: {error}".replace("\n", " ")) from None
    except RecursionError:
        # The parser ends before _plain can see how deep it is.
        raise ConfigError(f"yaml: nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(data, dict):
        raise ConfigError("yaml: line 1: the file must hold a map of keys")
    return Document(data, lines)


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Data:
    lines[path] = node.start_mark.line + 1
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"yaml: line {lines[path]}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(node, yaml.ScalarNode):
        null = node.tag == _NULL_TAG and node.style is None
        return Scalar("" if null else node.value, node.style is None)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), lines) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"yaml: line {key.start_mark.line + 1}: a key must be a text")
        if own.count(key.value) > 1:
            raise ConfigError(f'yaml: line {key.start_mark.line + 1}: key "{key.value}" stands there twice')
    # Resolves `<<` merges; keys written here come last and win.
    loader.flatten_mapping(node)
    found: dict[str, Data] = {}
    for key, value in node.value:
        if value.tag == _NULL_TAG and value.style is None:
            continue
        name = Scalar(key.value, key.style is None)
        found[name] = _plain(loader, value, (*path, str(name)), lines)
        lines[(*path, str(name))] = key.start_mark.line + 1
    return found


_EXPECTED: Final = {
    "tuple_type": "must be a list",
    "dict_type": "must be a map",
    "model_type": "must be a map",
    "dataclass_type": "must be a map",
}


def _mistakes(errors: ValidationError, document: Document) -> ConfigError:
    """The error that names all wrong values by their lines. Its problems have the unknown keys too."""
    wrong = sorted(_problem(error, document) for error in errors.errors())
    text = "; ".join(f"yaml: {problem}" for _, problem in wrong)
    for error in errors.errors():
        _remove(document.data, tuple(step for step in error["loc"] if step != "[key]"))
    try:
        unknown = _unknown_keys(adapter().validate_python(document.data), document.data, (), document)
    except ValidationError:
        unknown = []
    return ConfigError(text, [*(problem for _, problem in wrong), *(each.text for each in unknown)])


def _remove(data: dict[str, Data], loc: Path) -> None:
    """Remove what is at loc. An item of a list goes with its list."""
    if not loc:
        return
    *above, last = loc[: next((at for at, step in enumerate(loc) if isinstance(step, int)), len(loc))]
    for step in above:
        inner = data.get(str(step))
        if not isinstance(inner, dict):
            return
        data = inner
    data.pop(str(last), None)


def _problem(error: ErrorDetails, document: Document) -> tuple[int, str]:
    """The line of a wrong value, and what is wrong with it."""
    # A bad key of a map has the place (..., key, "[key]").
    path: Path = tuple(step for step in error["loc"] if step != "[key]")
    line = next((document.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in document.lines), 1)
    cause = error.get("ctx", {}).get("error")
    expected = str(cause) if cause is not None else _EXPECTED.get(error["type"], error["msg"])
    found = error["input"]
    shown = f", not {flags.quote(found)}" if isinstance(found, str) else ""
    return line, f"line {line}: {path_text(path)}: {expected}{shown}"


def path_text(path: Path) -> str:
    """``("stack", "dns", 0, "ip")`` as ``stack.dns[0].ip``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


_SECURITY: Final = (
    "egress-policy",
    "guest-api",
    "api-token-file",
    "guests",
    "ec2-metadata-access",
    "disable",
    "outbound-address",
    "outbound-interface",
)
"""Keys that restrict what guests and clients may do. The network must not start without one of them."""


class Unknown(NamedTuple):
    """An unknown key. restricts: it may be one of _SECURITY, or it stands in one."""

    text: str
    restricts: bool


def _unknown_keys(value: object, data: "Data", path: Path, document: Document) -> list[Unknown]:
    """Each key of data that value has no field for."""
    if isinstance(value, tuple) and isinstance(data, list):
        pairs = enumerate(zip(value, data, strict=True))
        return [note for at, (item, its) in pairs for note in _unknown_keys(item, its, (*path, at), document)]
    names = _fields(value)
    if not names or not isinstance(data, dict):
        return []
    notes, deeper = [], []
    for key, inner in data.items():
        where = (*path, str(key))
        if key in names:
            deeper += _unknown_keys(getattr(value, names[key]), inner, where, document)
            continue
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(names))}"
        note = f"line {document.lines.get(where, 1)}: unknown key {path_text(where)}{hint}"
        restricts = where[0] in _SECURITY or bool(near and near[0] in _SECURITY)
        notes.append(Unknown(f"{note} (a restriction would be missing)" if restricts else note, restricts))
    return notes + deeper


def _fields(value: object) -> dict[str, str]:
    """The field of each key that a map may have; none for other values."""
    if not is_dataclass(value):
        return {}
    is_map = isinstance(value, Map)
    return {
        each.metadata.get("alias", dashed(each.name) if is_map else each.name): each.name
        for each in fields(value)
    }
