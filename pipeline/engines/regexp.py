r"""Regular expressions in RE2's syntax whose time is linear in the text, whatever the pattern.

A zone's patterns come from the host, but the texts that they are tried on come from
guests: a backtracking matcher would let a guest stop the resolver with one name (``(a+)+$``
against forty a's). So a pattern becomes a program of at most MAX_PROGRAM steps, and all
its threads walk the text together (Thompson's construction): at most len(text) x steps.

Only "does it match anywhere?" is answered: no groups, no positions, so lazy and greedy
repetition are the same. Matching ignores the case of ASCII letters, as DNS names do. Texts
are characters up to U+00FF (the bytes of labels). Understood: literals, ``.``, classes
with POSIX names and Perl escapes, groups (also named and with flags), ``|``, ``* + ? {n,m}``,
``^ $ \A \z \b \B``, ``\Q..\E``. Not Unicode classes (``\pL``) and, as in RE2, no look-around and
no back-references.
"""

import re
from typing import Final, NamedTuple, TypeAlias

MAX_PATTERN: Final = 512
"""Characters of a pattern."""
MAX_PROGRAM: Final = 1000
"""Steps of its program; ``x{1000}`` takes about as many."""
MAX_REPEAT: Final = 1000
MAX_NESTING: Final = 50

_ALPHABET: Final = 256
_ALL: Final = (1 << _ALPHABET) - 1
_NEWLINE: Final = 1 << 10


def _span(first: int, last: int) -> int:
    """The set of the characters first..last, as a bit mask."""
    return ((1 << (last - first + 1)) - 1) << first


def _of(text: str) -> int:
    return sum(1 << ord(char) for char in set(text))


_UPPER: Final = _span(65, 90)
_LOWER: Final = _span(97, 122)
_DIGIT: Final = _span(48, 57)
_WORD: Final = _UPPER | _LOWER | _DIGIT | _of("_")
_SPACE: Final = _of("\t\n\f\r ")
_PUNCT: Final = _span(33, 47) | _span(58, 64) | _span(91, 96) | _span(123, 126)
_PERL: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_POSIX: Final = {
    "alnum": _UPPER | _LOWER | _DIGIT,
    "alpha": _UPPER | _LOWER,
    "ascii": _span(0, 127),
    "blank": _of("\t "),
    "cntrl": _span(0, 31) | 1 << 127,
    "digit": _DIGIT,
    "graph": _span(33, 126),
    "lower": _LOWER,
    "print": _span(32, 126),
    "punct": _PUNCT,
    "space": _of("\t\n\v\f\r "),
    "upper": _UPPER,
    "word": _WORD,
    "xdigit": _DIGIT | _of("abcdefABCDEF"),
}
_CONTROL: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_REPEAT: Final = re.compile(r"\{([0-9]+)(?:(,)([0-9]*))?\}")
_GROUP: Final = re.compile(r"\(\?(?:P?<[A-Za-z0-9_]+>|([imsU]*(?:-[imsU]+)?)([:)]))")

_NUMBER: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|x\{([0-9A-Fa-f]{1,6})\}|(0[0-7]{0,2}|[1-7][0-7]{1,2}))")

# Nodes of the syntax tree.
_SET: Final = 0
_CAT: Final = 1
_ALT: Final = 2
_REP: Final = 3
_ASSERT: Final = 4
# Steps of a program; their arguments are named in _Step.
_SPLIT: Final = 5
_MATCH: Final = 6

Node: TypeAlias = tuple[int, "int | str | list[Node] | Node", int, int]


class _Step(NamedTuple):
    """One step: _SET (mask: which characters go on), _SPLIT (one or two ways), _ASSERT (where), _MATCH."""

    kind: int
    mask: int = 0
    where: str = ""
    ways: tuple[int, ...] = ()


class RegexpError(ValueError):
    """The pattern is no regular expression, or too large a one. The text is what RE2 would say."""


class Regexp:
    """A compiled pattern."""

    __slots__ = ("_steps", "pattern")

    def __init__(self, pattern: str) -> None:
        """Raises RegexpError."""
        if len(pattern) > MAX_PATTERN:
            raise RegexpError("expression too large")
        self.pattern = pattern
        self._steps: list[_Step] = [_Step(_MATCH)]
        start = self._compile(_Parser(pattern).parse(), 0)
        # The last step is the entry, whatever was compiled last.
        self._steps.append(_Step(_SPLIT, ways=(start,)))

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in text. Characters above U+00FF match nothing."""
        steps = self._steps
        start = len(steps) - 1
        threads: list[int] = []
        for at in range(len(text) + 1):
            threads.append(start)
            sets = self._follow(threads, text, at)
            if sets is None:
                return True
            if at == len(text):
                break
            bit = 1 << ord(text[at]) if ord(text[at]) < _ALPHABET else 0
            threads = list({steps[number].ways[0] for number in sets if steps[number].mask & bit})
        return False

    def _follow(self, threads: list[int], text: str, at: int) -> list[int] | None:
        """The _SET steps reachable from threads without a character; None when the end is reachable."""
        steps = self._steps
        seen = set(threads)
        sets = []
        while threads:
            number = threads.pop()
            step = steps[number]
            if step.kind == _SET:
                sets.append(number)
                continue
            if step.kind == _MATCH:
                return None
            if step.kind == _ASSERT and not _holds(step.where, text, at):
                continue
            for way in step.ways:
                if way not in seen:
                    seen.add(way)
                    threads.append(way)
        return sets

    # --- compiling ----------------------------------------------------------------------

    def _add(self, step: _Step) -> int:
        if len(self._steps) >= MAX_PROGRAM:
            raise RegexpError("expression too large")
        self._steps.append(step)
        return len(self._steps) - 1

    def _compile(self, node: Node, following: int) -> int:
        """Number of the step where node begins, when the step behind it is following."""
        kind, what, low, high = node
        if kind == _SET and isinstance(what, int):
            return self._add(_Step(_SET, mask=_fold(what), ways=(following,)))
        if kind == _ASSERT and isinstance(what, str):
            return self._add(_Step(_ASSERT, where=what, ways=(following,)))
        if kind == _CAT and isinstance(what, list):
            for part in reversed(what):
                following = self._compile(part, following)
            return following
        if kind == _ALT and isinstance(what, list):
            return self._add(_Step(_SPLIT, ways=tuple(self._compile(part, following) for part in what)))
        assert kind == _REP
        assert isinstance(what, tuple)
        if high < 0:
            # The loop's split must have a number before its body can lead back to it.
            loop = self._add(_Step(_SPLIT))
            self._steps[loop] = _Step(_SPLIT, ways=(self._compile(what, loop), following))
            following = loop
        for _ in range(high - low if high >= 0 else 0):
            following = self._add(_Step(_SPLIT, ways=(self._compile(what, following), following)))
        for _ in range(low):
            following = self._compile(what, following)
        return following


def _fold(mask: int) -> int:
    """The set with both cases of each ASCII letter in it."""
    return mask | (mask & _UPPER) << 32 | (mask & _LOWER) >> 32


def _holds(where: str, text: str, at: int) -> bool:
    if where == "begin":
        return at == 0
    if where == "end":
        return at == len(text)
    before = at > 0 and _is_word(text[at - 1])
    after = at < len(text) and _is_word(text[at])
    return (before != after) == (where == "boundary")


def _is_word(char: str) -> bool:
    return ord(char) < _ALPHABET and bool(_WORD >> ord(char) & 1)


class _Parser:
    """Recursive descent over one pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.depth = 0
        self.dot_all = False

    def parse(self) -> Node:
        node = self.alternatives()
        if self.at < len(self.pattern):
            raise RegexpError(f"unexpected ): `{self.pattern}`")
        return node

    def alternatives(self) -> Node:
        parts = [self.sequence()]
        while self.pattern.startswith("|", self.at):
            self.at += 1
            parts.append(self.sequence())
        return (_ALT, parts, 0, 0)

    def sequence(self) -> Node:
        parts: list[Node] = []
        pattern = self.pattern
        while self.at < len(pattern) and pattern[self.at] not in "|)":
            if pattern.startswith("\\Q", self.at):
                end = pattern.find("\\E", self.at)
                literal = pattern[self.at + 2 : end if end >= 0 else len(pattern)]
                self.at = end + 2 if end >= 0 else len(pattern)
                parts += [(_SET, _literal(char), 0, 0) for char in literal]
                # A repetition behind \E is of the last character alone.
                if parts and literal:
                    parts.append(self.repeated(parts.pop()))
                continue
            atom = self.atom()
            parts.append(self.repeated(atom))
        return (_CAT, parts, 0, 0)

    def repeated(self, atom: Node) -> Node:
        """atom with the repetition behind it, if there is one."""
        start = self.at
        bounds = self.bounds()
        if bounds is None:
            return atom
        again = self.at
        if self.bounds() is not None:
            raise RegexpError(f"invalid nested repetition operator: `{self.pattern[start : self.at]}`")
        self.at = again
        low, high = bounds
        if low > MAX_REPEAT or high > MAX_REPEAT or 0 <= high < low:
            raise RegexpError(f"invalid repeat count: `{self.pattern[start : self.at]}`")
        return (_REP, atom, low, high)

    def bounds(self) -> tuple[int, int] | None:
        """Read ``*``, ``+``, ``?`` or ``{n,m}`` with a ``?`` behind; high is -1 for "any number"."""
        char = self.pattern[self.at : self.at + 1]
        if char and char in "*+?":
            self.at += 1
            low, high = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}[char]
        elif char == "{" and (match := _REPEAT.match(self.pattern, self.at)):
            # Longer numbers are out of bounds in any case.
            low = int(match[1][:9])
            high = low if not match[2] else int(match[3][:9]) if match[3] else -1
            self.at = match.end()
        else:
            return None
        if self.pattern.startswith("?", self.at):
            self.at += 1
        return low, high

    def atom(self) -> Node:
        char = self.pattern[self.at]
        if char == "(":
            return self.group()
        if char == "[":
            return (_SET, self.char_class(), 0, 0)
        if char == "\\":
            return self.escape()
        start = self.at
        if self.bounds() is not None:
            raise RegexpError(f"missing argument to repetition operator: `{self.pattern[start : self.at]}`")
        self.at += 1
        if char == ".":
            return (_SET, _ALL if self.dot_all else _ALL & ~_NEWLINE, 0, 0)
        if char in "^$":
            return (_ASSERT, "begin" if char == "^" else "end", 0, 0)
        return (_SET, _literal(char), 0, 0)

    def group(self) -> Node:
        pattern = self.pattern
        outer = self.dot_all
        if pattern.startswith("(?", self.at):
            match = _GROUP.match(pattern, self.at)
            if match is None:
                raise RegexpError(f"invalid or unsupported Perl syntax: `{pattern[self.at : self.at + 3]}`")
            self.at = match.end()
            if match[1] is not None:
                on, _, off = match[1].partition("-")
                self.dot_all = ("s" in on or self.dot_all) and "s" not in off
            if match[2] == ")":
                # Flags alone: they hold to the end of the group that they stand in.
                return (_CAT, [], 0, 0)
        else:
            self.at += 1
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise RegexpError(f"expression nests too deeply: `{pattern}`")
        node = self.alternatives()
        if not pattern.startswith(")", self.at):
            raise RegexpError(f"missing closing ): `{pattern}`")
        self.at += 1
        self.depth -= 1
        self.dot_all = outer
        return node

    def escape(self) -> Node:
        char = self.pattern[self.at + 1 : self.at + 2]
        place = {"A": "begin", "z": "end", "b": "boundary", "B": "inside"}.get(char)
        if place:
            self.at += 2
            return (_ASSERT, place, 0, 0)
        return (_SET, self.escaped_set(), 0, 0)

    def escaped_set(self) -> int:
        """The characters that the escape here stands for (inside or outside of a class)."""
        char = self.pattern[self.at + 1 : self.at + 2]
        if char.lower() in _PERL and char:
            self.at += 2
            mask = _PERL[char.lower()]
            return mask if char.islower() else _ALL & ~mask
        return _literal(self.escaped_char())

    def escaped_char(self) -> str:
        pattern = self.pattern
        start = self.at
        char = pattern[start + 1 : start + 2]
        if not char:
            raise RegexpError("trailing backslash at end of expression: ``")
        self.at += 2
        if char in _CONTROL:
            return chr(_CONTROL[char])
        number = _NUMBER.match(pattern, start)
        if number:
            self.at = number.end()
            code = int(number[3], 8) if number[3] else int(number[1] or number[2], 16)
            if code <= 0x10FFFF:
                return chr(code)
        elif char.isascii() and not char.isalnum():
            return char
        raise RegexpError(f"invalid escape sequence: `{pattern[start : self.at]}`")

    def char_class(self) -> int:
        pattern = self.pattern
        start = self.at
        self.at += 1
        negated = pattern.startswith("^", self.at)
        self.at += negated
        mask = 0
        first = True
        while first or not pattern.startswith("]", self.at):
            if self.at >= len(pattern):
                raise RegexpError(f"missing closing ]: `{pattern[start:]}`")
            first = False
            mask |= self.class_item(start)
        self.at += 1
        # Case is folded before the negation: [^a] matches neither a nor A.
        return _ALL & ~_fold(mask) if negated else mask

    def class_item(self, start: int) -> int:
        pattern = self.pattern
        if pattern.startswith("[:", self.at):
            end = pattern.find(":]", self.at)
            if end >= 0:
                name = pattern[self.at + 2 : end]
                mask = _POSIX.get(name.removeprefix("^"))
                if mask is None:
                    raise RegexpError(f"invalid character class range: `{pattern[self.at : end + 2]}`")
                self.at = end + 2
                return _ALL & ~mask if name.startswith("^") else mask
        item = self.at
        if pattern[item] == "\\" and pattern[item + 1 : item + 2].lower() in ("d", "w", "s"):
            return self.escaped_set()
        low = self.class_char()
        if not pattern.startswith("-", self.at) or pattern.startswith("-]", self.at):
            return _literal(low)
        self.at += 1
        if self.at >= len(pattern):
            raise RegexpError(f"missing closing ]: `{pattern[start:]}`")
        high = self.class_char()
        if high < low:
            raise RegexpError(f"invalid character class range: `{pattern[item : self.at]}`")
        return _span(ord(low), ord(high)) & _ALL if ord(low) < _ALPHABET else 0

    def class_char(self) -> str:
        if self.pattern[self.at] == "\\":
            return self.escaped_char()
        self.at += 1
        return self.pattern[self.at - 1]


def _literal(char: str) -> int:
    """The set of one character; empty for one that no label can hold."""
    return 1 << ord(char) if ord(char) < _ALPHABET else 0
