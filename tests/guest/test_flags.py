"""The guest program reads its command line as Go's flag package does."""

import pytest

from guest import flags
from guest.flags import Flag, FlagError, HelpWanted

TABLE = (
    Flag("url", "vsock://2:1024/connect", "where"),
    Flag("mtu", 4000, "bytes"),
    Flag("debug", False, "more"),
)


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], {"url": "vsock://2:1024/connect", "mtu": 4000, "debug": False}),
        (["-url", "unix:///x", "--mtu=1500"], {"url": "unix:///x", "mtu": 1500}),
        (["-mtu", "0x10"], {"mtu": 16}),
        (["-mtu", "1_500"], {"mtu": 1500}),
        (["-debug"], {"debug": True}),
        (["-debug=F"], {"debug": False}),
        (["-url="], {"url": ""}),
        (["-url", "-debug"], {"url": "-debug", "debug": False}),
        (["-mtu", "1", "-mtu", "2"], {"mtu": 2}),
        (["-debug", "true", "-mtu", "1"], {"debug": True, "mtu": 4000}),
        (["--", "-mtu", "1"], {"mtu": 4000}),
        (["-", "-mtu", "1"], {"mtu": 4000}),
    ],
)
def test_words_become_values(words: list[str], expected: dict[str, object]) -> None:
    values = flags.parse(TABLE, words)
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize(
    "words, text",
    [
        (["-nosuch"], "flag provided but not defined: -nosuch"),
        (["-mtu", "abc"], 'invalid value "abc" for flag -mtu: parse error'),
        (["-debug=maybe"], 'invalid boolean value "maybe" for -debug: parse error'),
        (["-mtu"], "flag needs an argument: -mtu"),
        (["---mtu", "1"], "bad flag syntax: ---mtu"),
        (["-=1"], "bad flag syntax: -=1"),
    ],
)
def test_a_bad_command_line_is_told_in_the_words_of_go(words: list[str], text: str) -> None:
    with pytest.raises(FlagError) as caught:
        flags.parse(TABLE, words)
    assert str(caught.value) == text


@pytest.mark.parametrize("word", ["-h", "-help", "--help"])
def test_help_is_asked_for(word: str) -> None:
    with pytest.raises(HelpWanted):
        flags.parse(TABLE, [word])


def test_usage_names_every_flag_with_its_default() -> None:
    text = flags.usage("program", TABLE)
    assert text.startswith("Usage of program:\n  -debug\n")
    assert '(default "vsock://2:1024/connect")' in text
    assert "(default 4000)" in text
