r"""Patterns of DNS zones: RE2, whose syntax is that of Go's regexp package.

The host writes a pattern, but guests choose the names that it is tried on. RE2 takes time linear in the
name's length and at most MAX_MEMORY, whatever the pattern is. So ``(a+)+$`` does not stop the resolver.

A pattern matches anywhere in a name, and in either case, since DNS names have no case. A name has one
character for each byte of its labels, U+0000 to U+00FF. Error texts have Go's wording.
"""

import functools
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import re2

MAX_PATTERN: Final = 512
"""Characters of a pattern."""
MAX_MEMORY: Final = 1 << 20
"""The most bytes for a pattern's program and the states that RE2 caches. ``.{1000}`` fits."""

_HUGE_COUNT: Final = re.compile(r"(?<!\\)\{(?:[0-9]{9,}(?:,[0-9]*)?|[0-9]+,[0-9]{9,})\}")
"""RE2 reads such a count as literal text. Go refuses it."""
_GO_WORDING: Final = {
    "bad repetition operator": "invalid nested repetition operator",
    "invalid UTF-8": "invalid escape sequence: it has no end",  # the pattern itself is valid UTF-8
    "invalid named capture group": "invalid named capture",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid repetition size": "invalid repeat count",
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
    "pattern too large - compile failed": "expression too large",
    "trailing \\": "trailing backslash at end of expression: ``",
}


class RegexpError(ValueError):
    """The pattern is not a regular expression, or is too large. The text has Go's wording."""


@functools.cache
def _options() -> "re2.Options":
    import re2  # noqa: PLC0415  without a pattern nothing needs it

    options = re2.Options()
    options.case_sensitive = False
    options.never_capture = True
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    return options


class Regexp:
    """A compiled pattern."""

    __slots__ = ("_compiled", "pattern")

    def __init__(self, pattern: str) -> None:
        """Raises RegexpError."""
        import re2  # noqa: PLC0415  as above

        if len(pattern) > MAX_PATTERN:
            raise RegexpError("expression too large")
        if huge := _HUGE_COUNT.search(pattern):
            raise RegexpError(f"invalid repeat count: `{huge[0]}`")
        self.pattern = pattern
        try:
            self._compiled = re2.compile(pattern.encode(), _options())
        except UnicodeEncodeError:
            raise RegexpError("invalid UTF-8") from None
        except re2.error as error:
            reason, _, part = error.args[0].decode(errors="replace").partition(": ")
            text = _GO_WORDING.get(reason, reason)
            raise RegexpError(f"{text}: `{part}`" if part else text) from None

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in text."""
        return self._compiled.search(text.encode()) is not None
