"""Reads the YAML configuration file. Errors name the key and its line.

A scalar stays a text until the schema (keys.py) says what it is. So a MAC address of digits
(``10:11:11:11:11:11``) does not become a number to base 60. A wrong value raises ConfigError, which says what
is allowed. An unknown key is only reported, with the nearest known key, since gvproxy ignores it. merge.py
merges the file with the flags.
"""

from typing import Final

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.errors import ConfigError
from pipeline.config.keys import FileKeys, Map
from pipeline.config.mistakes import Data, Document, Path, fields_of, path_text, unknown_keys, wording
from pipeline.config.scalars import Scalar
from pipeline.config.schema import adapter

MAX_DEPTH: Final = 32

_NULL_TAG: Final = "tag:yaml.org,2002:null"


def read(text: str) -> tuple[FileKeys, tuple[str, ...]]:
    """The file's content and a note for each unknown key. Raises ConfigError, which has all mistakes."""
    document = parse(text)
    try:
        keys = adapter().validate_python(document.data)
    except ValidationError as errors:
        raise _mistakes(errors, document) from None
    unknown = unknown_keys(keys, document.data, (), document)
    if any(each.restricts for each in unknown):
        text = next(f"yaml: {each.text}" for each in unknown if each.restricts)
        raise ConfigError(text, [each.text for each in unknown])
    _name_settings(keys, document.data)
    return keys, tuple(each.text for each in unknown)


def _name_settings(keys: Map, data: dict[str, Data]) -> None:
    """Note in each map which of its settings the file names."""
    names = {name: data[key] for key, name in fields_of(keys).items() if key in data}
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


def _mistakes(errors: ValidationError, document: Document) -> ConfigError:
    """The error that names all wrong values by their lines. Its problems have the unknown keys too."""
    wrong = sorted(_problem(error, document) for error in errors.errors())
    text = "; ".join(f"yaml: {problem}" for _, problem in wrong)
    for error in errors.errors():
        _remove(document.data, tuple(step for step in error["loc"] if step != "[key]"))
    try:
        unknown = unknown_keys(adapter().validate_python(document.data), document.data, (), document)
    except ValidationError:
        unknown = []
    return ConfigError(text, [*(problem for _, problem in wrong), *(each.text for each in unknown)])


def _remove(data: dict[str, Data], loc: Path) -> None:
    """Remove what is at loc. An item of a list goes with its list."""
    if not loc:
        return
    first_item = next((at for at, step in enumerate(loc) if isinstance(step, int)), len(loc))
    *above, last = loc[:first_item]
    for step in above:
        inner = data.get(str(step))
        if not isinstance(inner, dict):
            return
        data = inner
    data.pop(str(last), None)


def _problem(error: ErrorDetails, document: Document) -> tuple[int, str]:
    """The line of a wrong value, and what is wrong with it."""
    path, words = wording(error)
    line = next((document.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in document.lines), 1)
    return line, f"line {line}: {path_text(path)}: {words}"
