"""The validators of the file, which pydantic makes of its layout (keys.py), and its JSON schema.

They take 30 ms and 5 MB. A program without a file does not load this module.
"""

from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter

from pipeline.config.keys import FileKeys

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


@cache
def adapter() -> TypeAdapter[FileKeys]:
    """What validates a file and writes one."""
    return TypeAdapter(FileKeys)


def json_schema() -> Schema:
    """The JSON schema of a file, for editors and checkers.

    It allows what ``config check`` allows, as far as JSON Schema can say it. It sees one value at a time.
    Only the program knows whether an address is in the subnet, or whether a key takes the scheme of a URL.
    """
    made = adapter().json_schema(by_alias=True, mode="serialization")
    for each in (made, *made["$defs"].values()):
        _close(each)
    # An empty file is a map without keys.
    return {"$schema": DIALECT, **made, "title": "gvtap-pipeline", "type": ["object", "null"]}


def _close(schema: Schema) -> None:
    """Refuse unknown keys, and allow a key without a value, which keeps its default."""
    schema["additionalProperties"] = False
    needed = schema.get("required", ())
    for key, value in schema["properties"].items():
        value.pop("title", None)
        if "$ref" in value:
            # pydantic names the fields of the default, not their keys.
            value.pop("default", None)
        _close_map(value)
        if key not in needed:
            schema["properties"][key] = _or_null(value)


def _close_map(schema: Schema) -> None:
    """The same for a map from addresses to values."""
    for name in ("additionalProperties", "patternProperties"):
        if name not in schema:
            continue
        if name == "patternProperties":
            schema[name] = {key: _or_null(value) for key, value in schema[name].items()}
            schema["additionalProperties"] = False
        else:
            schema[name] = _or_null(schema[name])


def _or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    if isinstance(kind, list):
        return schema
    if kind is None or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [kind, "null"]}
