"""Numbers of bytes as people write them: ``5000000``, ``500MB`` (powers of 1000), ``2GiB`` (of 1024)."""

import re
from typing import Annotated, Final

from pipeline.config.scalars import Check, Scalar

MAX_BYTES: Final = 2**60
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_WORD: Final = re.compile(r"([0-9]{1,19})(?: ?([KMGT])(i?)B)?", re.ASCII)


def _bytes(value: object) -> int:
    found = _WORD.fullmatch(str.__str__(value)) if isinstance(value, Scalar) else None
    number = -1
    if found is not None:
        number = int(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2] or ""]
    if not 0 <= number <= MAX_BYTES:
        raise ValueError(f"must be a number of bytes from 0 to {MAX_BYTES}, such as 5000000, 500MB or 2GiB")
    return number


ByteCount = Annotated[
    int,
    Check(
        _bytes,
        schema={
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_BYTES},
                {"type": "string", "pattern": "^[0-9]{1,19}( ?[KMGT]i?B)?$"},
            ]
        },
    ),
]
