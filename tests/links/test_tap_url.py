"""The place of a tap as text."""

import pytest

from pipeline.links.tap_url import TapPlace, parse

MAC = bytes.fromhex("5a94efe40cee")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("eth0", TapPlace("eth0")),
        ("eth0?netns=blue", TapPlace("eth0", "/run/netns/blue")),
        ("eth0?netns=/proc/1/ns/net", TapPlace("eth0", "/proc/1/ns/net")),
        (
            "eth0?netns=/proc/1/ns/net&userns=/proc/1/ns/user&mac=5a:94:ef:e4:0c:ee",
            TapPlace("eth0", "/proc/1/ns/net", "/proc/1/ns/user", MAC),
        ),
        ("eth0?netns=a%26b", TapPlace("eth0", "/run/netns/a&b")),
    ],
)
def test_a_place_is_read(text: str, place: TapPlace) -> None:
    assert parse(text) == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a name of an interface"),
        ("a" * 16, "not a name of an interface"),
        ("..", "not a name of an interface"),
        ("tap%d", "not a name of an interface"),
        ("eth0?netns", "not a list of settings"),
        ("eth0?netns=a&netns=b", "stands twice"),
        ("eth0?ns=a", "unknown setting 'ns'"),
        ("eth0?netns=a/b", "must be a name below /run/netns, or an absolute path"),
        ("eth0?netns=..", "must be a name below /run/netns, or an absolute path"),
        ("eth0?netns=a%00b", "has no value"),
        ("eth0?userns=4711", "must be an absolute path"),
        ("eth0?mac=01:00:5e:00:00:01", "not the MAC address of a machine"),
        ("eth0?mac=5a", "not the MAC address of a machine"),
    ],
)
def test_another_text_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)
