"""The flag parser against Go's flag package: forms, texts and literals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.go import flags
from pipeline.go.flags import Flag, FlagError, HelpRequestError

FLAGS = (
    Flag("mtu", "int", "size"),
    Flag("ssh-port", "int", "port", default=2222),
    Flag("debug", "bool", "talk"),
    Flag("pid-file", "string", "path"),
    Flag("listen", "string", "where", repeats=True),
    Flag("url", "string", "to where", default="vsock://2:1024/connect"),
    Flag("offload", "bool", "frames of 64 KiB", default=True),
)


def parse(*words: str) -> flags.Parsed:
    return flags.parse(FLAGS, words)


def test_defaults_stand_where_nothing_is_given() -> None:
    parsed = parse()
    assert parsed.values == {
        "mtu": 0,
        "ssh-port": 2222,
        "debug": False,
        "pid-file": "",
        "url": "vsock://2:1024/connect",
        "offload": True,
    }
    assert parsed.lists == {"listen": ()}
    assert parsed.given == frozenset()


@pytest.mark.parametrize("words", [("-mtu", "1400"), ("--mtu", "1400"), ("-mtu=1400",), ("--mtu=1400",)])
def test_one_dash_or_two_and_both_value_forms_are_the_same(words: tuple[str, ...]) -> None:
    assert parse(*words).number("mtu") == 1400


def test_what_is_given_takes_the_place_of_the_default() -> None:
    parsed = parse("-url", "unix:///x", "-offload=F", "-ssh-port", "0x10")
    assert (parsed.text("url"), parsed.true("offload"), parsed.number("ssh-port")) == ("unix:///x", False, 16)
    assert parse("-url=").text("url") == ""


@pytest.mark.parametrize("text", ["true", "1", "t", "T", "TRUE", "True"])
def test_booleans_take_gos_words_for_true(text: str) -> None:
    assert parse(f"-debug={text}").true("debug")


@pytest.mark.parametrize("text", ["false", "0", "f", "F", "FALSE", "False"])
def test_booleans_take_gos_words_for_false(text: str) -> None:
    assert not parse("-debug", f"-debug={text}").true("debug")


def test_a_word_behind_a_boolean_is_positional_and_ends_the_flags() -> None:
    parsed = parse("-debug", "true", "-mtu", "9000")
    assert parsed.true("debug")
    assert parsed.arguments == ("true", "-mtu", "9000")
    assert parsed.number("mtu") == 0


def test_two_dashes_end_the_flags() -> None:
    parsed = parse("-mtu", "9", "--", "-debug")
    assert parsed.arguments == ("-debug",)
    assert (parsed.number("mtu"), parsed.true("debug")) == (9, False)


def test_a_lone_dash_is_positional() -> None:
    parsed = parse("-", "-debug")
    assert parsed.arguments == ("-", "-debug")
    assert not parsed.true("debug")


def test_repeating_flags_collect_and_others_keep_the_last_value() -> None:
    parsed = parse("-listen", "a", "--listen=b", "-mtu", "1", "-mtu", "2")
    assert parsed.lists["listen"] == ("a", "b")
    assert parsed.number("mtu") == 2
    assert parsed.given == {"listen", "mtu"}


def test_a_value_may_look_like_a_flag() -> None:
    parsed = parse("-pid-file", "-debug")
    assert parsed.text("pid-file") == "-debug"
    assert not parsed.true("debug")
    assert parse("-ssh-port", "-1").number("ssh-port") == -1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-nosuch",), "flag provided but not defined: -nosuch"),
        (("--nosuch=3",), "flag provided but not defined: -nosuch"),
        (("-mtu", "abc"), 'invalid value "abc" for flag -mtu: parse error'),
        (("-mtu", "a\nb"), 'invalid value "a\\nb" for flag -mtu: parse error'),
        (("-mtu", "9" * 19), f'invalid value "{"9" * 19}" for flag -mtu: value out of range'),
        (("-debug=maybe",), 'invalid boolean value "maybe" for -debug: parse error'),
        (("-mtu",), "flag needs an argument: -mtu"),
        (("---mtu", "1"), "bad flag syntax: ---mtu"),
        (("-mtu", " 5"), 'invalid value " 5" for flag -mtu: parse error'),
        (("-=3",), "bad flag syntax: -=3"),
        (("--=3",), "bad flag syntax: --=3"),
    ],
)  # fmt: skip
def test_wrong_lines_have_gos_texts(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(FlagError) as error:
        parse(*words)
    assert str(error.value) == text


@pytest.mark.parametrize("word", ["-h", "-help", "--h", "--help"])
def test_help_is_a_wish_and_no_error(word: str) -> None:
    with pytest.raises(HelpRequestError):
        parse(word)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("-0", 0), ("+7", 7), ("0x10", 16), ("0X1f", 31), ("0b101", 5), ("0o17", 15), ("017", 15),
        ("1_000", 1000), ("0x_ff", 255), ("0_17", 15), ("-0x10", -16), ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)  # fmt: skip
def test_integers_are_go_literals(text: str, value: int) -> None:
    assert flags.integer(text) == value


@pytest.mark.parametrize(
    "text", ["", "-", "08", "1__0", "_1", "1_", "0x", " 1", "1 ", "1.0", "1e3", "\u0661"]
)
def test_what_go_refuses_is_no_integer(text: str) -> None:
    with pytest.raises(FlagError, match="parse error"):
        flags.integer(text)


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from("dxob"))
def test_every_integer_is_read_back_in_every_base(value: int, base: str) -> None:
    text = format(abs(value), base)
    prefix = {"d": "", "x": "0x", "o": "0o", "b": "0b"}[base]
    assert flags.integer(("-" if value < 0 else "") + prefix + text) == value


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_line_is_read_or_refused_with_a_text(words: list[str]) -> None:
    try:
        parsed = flags.parse(FLAGS, words)
    except (FlagError, HelpRequestError):
        return
    assert len(parsed.arguments) <= len(words)


_VALUES = st.text(st.characters(exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), _VALUES), max_size=8))
def test_values_arrive_whole_in_every_form(items: list[tuple[bool, bool, str]]) -> None:
    words: list[str] = []
    for two_dashes, joined, value in items:
        name = "--listen" if two_dashes else "-listen"
        words += [f"{name}={value}"] if joined else [name, value]
    parsed = flags.parse(FLAGS, [*words, "--", "-rest"])
    assert parsed.lists["listen"] == tuple(value for _, _, value in items)
    assert parsed.arguments == ("-rest",)


def test_usage_names_kinds_and_defaults() -> None:
    text = flags.usage("Usage of it:", FLAGS)
    assert text.startswith("Usage of it:\n  -debug\n    \ttalk\n")
    assert "  -ssh-port int\n    \tport (default 2222)\n" in text
    assert "  -mtu int\n    \tsize\n" in text
    assert '  -url string\n    \tto where (default "vsock://2:1024/connect")\n' in text
    assert "  -offload\n    \tframes of 64 KiB (default true)\n" in text


def test_flags_of_another_table_are_added_as_not_given() -> None:
    line = flags.parse([flags.Flag("a", "int", "")], ["-a", "1"])
    more = line.with_defaults(
        [flags.Flag("b", "int", "", default=7), flags.Flag("c", "string", "", repeats=True)]
    )
    assert (more.number("a"), more.number("b"), more.lists["c"]) == (1, 7, ())
    assert more.given == {"a"}
