"""The validators of the file, which pydantic makes of its layout (keys.py), and its JSON schema.

They take 30 ms and 5 MB. A program without a file does not load this module.
"""

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from pipeline.config.keys import FileKeys


@cache
def adapter() -> TypeAdapter[FileKeys]:
    """What validates a file and writes one."""
    return TypeAdapter(FileKeys)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a file, for editors and checkers."""
    return adapter().json_schema(by_alias=True, mode="serialization")
