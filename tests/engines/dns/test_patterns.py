"""Patterns of zones: RE2's verdicts, Go's error texts, and bounds on time and memory."""

import contextlib
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dns.patterns import MAX_MEMORY, Regexp, RegexpError


@pytest.mark.parametrize(
    "pattern, hits, misses",
    [
        ("", ["", "a"], []),
        ("^a", ["a", "ab"], ["", "ba"]),
        ("apps", ["my.apps.x", "APPS"], ["app"]),
        ("^(foo|bar)$", ["foo", "BAR"], ["foobar", "xfoo"]),
        ("^[a-z0-9-]{2,4}$", ["ab", "a-0z"], ["a", "abcde", "a_"]),
        ("^x{0}$", [""], ["x"]),
        ("^x{2,}$", ["xx", "xxxx"], ["x"]),
        ("^x{,2}$", ["x{,2}"], ["x"]),
        (r"^\d+\.\w+$", ["1.a_", "99.9"], ["a.a", "1x1"]),
        (r"\bweb\b", ["web", "a.web.b"], ["webs", "_web"]),
        (r"\Bb", ["ab"], ["b", ".b"]),
        (r"^a.c$", ["abc", "a.c"], ["a\nc", "ac"]),
        (r"^(?s)a.c$", ["a\nc"], []),
        (r"^(?s:.)(?-s:.)$", ["\na"], ["a\n"]),
        (r"^(?P<name>a)(?<other>b)(?:c)(?i:D)$", ["abcd"], ["abc"]),
        (r"^[[:alpha:]]+[[:^digit:]]$", ["ab-"], ["a1", "1a"]),
        (r"^[^a-c]$", ["d", "-"], ["a", "B"]),
        (r"^[]a]$", ["]", "a"], ["b"]),
        (r"^[a\-z]$", ["-", "a", "z"], ["b"]),
        (r"^[a-]$", ["-", "a"], ["b"]),
        (r"^[\d\W]$", ["5", "-"], ["a"]),
        (r"^\x41\x{42}\103$", ["abc"], ["ab"]),
        (r"^\Qa.b\E+$", ["a.b", "a.bbb"], ["axb", "a.ba.b"]),
        (r"\Aab\z", ["ab"], ["abc"]),
        (r"^a*?b+?c??$", ["b", "aabbc"], ["aac"]),
        ("^(a|b*)*c$", ["c", "ababc"], ["abd"]),
        ("^(|a)+$", ["", "aa"], ["b"]),
        ("\u20ac", ["\u20ac"], ["", "x"]),
        ("^[\xe0-\u20ac]$", ["\xe9", "\xff"], ["a"]),
        (r"^\pL$", ["a", "Z", "\xe9"], ["1", "-"]),
        (r"^\P{Greek}\p{^Greek}$", ["ab", "1-"], ["a"]),
        ("(" * 250 + "a" + ")" * 250, ["a"], ["b"]),
        ("^((a{10}){10}){10}$", ["a" * 1000], ["a" * 999]),
        (r"^\w{1000}$", ["x_1y" * 250], ["x" * 999]),
        ("^.{1000}$", ["x-1." * 250], ["x" * 999]),
    ],
)
def test_patterns_match_as_in_re2_without_regard_to_case(
    pattern: str, hits: list[str], misses: list[str]
) -> None:
    compiled = Regexp(pattern)
    assert [text for text in hits if not compiled.search(text)] == []
    assert [text for text in misses if compiled.search(text)] == []


@pytest.mark.parametrize(
    "pattern, text",
    [
        ("(a", "missing closing ): `(a`"),
        ("a)", "unexpected ): `a)`"),
        ("[a", "missing closing ]: `[a`"),
        ("[a-", "missing closing ]: `[a-`"),
        ("[", "missing closing ]: `[`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:nope:]]", "invalid character class range: `[:nope:]`"),
        ("*a", "missing argument to repetition operator: `*`"),
        ("a|+", "missing argument to repetition operator: `+`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a{3}{2}", "invalid nested repetition operator: `{3}{2}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{99999999999999999999}", "invalid repeat count: `{99999999999999999999}`"),
        ("a{1,999999999}", "invalid repeat count: `{1,999999999}`"),
        ("a{3,2}", "invalid repeat count: `{3,2}`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        (r"\y", r"invalid escape sequence: `\y`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\p{Nope}", r"invalid character class range: `\p{Nope}`"),
        (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
        (r"\x{", "invalid escape sequence: it has no end"),
        ("\ud800", "invalid UTF-8"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?<!a)", "invalid or unsupported Perl syntax: `(?<!`"),
        ("(?<a-b>c)", "invalid named capture: `(?<a-b>`"),
        ("(a{1000}){1000}", "invalid repeat count: `{1000}`"),
        ("(" * 300 + ")" * 300, "expression too large"),
        (r"\pL{99}", "expression too large"),
        ("a" * 600, "expression too large"),
    ],
)
def test_bad_and_oversized_patterns_are_refused_with_a_reason(pattern: str, text: str) -> None:
    with pytest.raises(RegexpError) as caught:
        Regexp(pattern)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "pattern, text",
    [
        ("(a+)+$", "a" * 252 + "!"),
        ("(a|aa)+$", "a" * 252 + "!"),
        ("(a*)*b", "a" * 253),
        (".*.*.*.*.*.*x", "a" * 253),
        ("(.*)(.*)(.*)(.*)[^a]$", "a" * 253),
    ],
)
def test_patterns_that_ruin_a_backtracking_matcher_come_to_a_verdict(pattern: str, text: str) -> None:
    assert not Regexp(pattern).search(text)


_MEMORY = """
import random
from resource import RUSAGE_SELF, getrusage
from pipeline.engines.dns.patterns import Regexp

draw = random.Random(1)
names = ["".join(draw.choices("ab", k=253)) for _ in range(400)]
pattern = Regexp("a[ab]{14}c")
before = getrusage(RUSAGE_SELF).ru_maxrss
assert not any(map(pattern.search, names))
print(getrusage(RUSAGE_SELF).ru_maxrss - before)
"""


def test_names_of_a_guest_do_not_make_a_pattern_grow() -> None:
    # This pattern has 2**15 states; with RE2's own bound it takes 3 MiB after these names.
    found = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True)
    assert int(found.stdout) * 1024 < 2 * MAX_MEMORY


_ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\w", r"\d", r"\b", "^", "$", "-"])
_PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@given(_PATTERNS, st.text("abc-1", max_size=8))
@settings(max_examples=400, deadline=None)
def test_verdicts_agree_with_the_standard_library(pattern: str, text: str) -> None:
    # Python's $ also matches before a last newline; the texts have none.
    expected = re.compile(pattern, re.ASCII | re.IGNORECASE).search(text) is not None
    assert Regexp(pattern).search(text) is expected


@given(st.text(st.characters(max_codepoint=0x2FF), max_size=40), st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_pattern_is_compiled_or_refused_and_any_text_judged(pattern: str, text: str) -> None:
    try:
        compiled = Regexp(pattern)
    except RegexpError:
        return
    assert compiled.search(text) in (True, False)


@given(st.text("()[]{}*+?|\\^$.-:?P<>a1,QExd", max_size=25))
@settings(max_examples=300, deadline=None)
def test_any_heap_of_metacharacters_is_compiled_or_refused(pattern: str) -> None:
    with contextlib.suppress(RegexpError):
        Regexp(pattern).search("a1-.")
