"""Words that mean port forwards: what is left out, ranges, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import forward_words
from pipeline.config.forward_words import Local, WordError
from pipeline.config.model import PortForward
from tests.config.built import build, refusal

GUEST = "192.168.127.2"


@pytest.mark.parametrize(
    ("word", "protocol", "local", "remote"),
    [
        ("8080:80", "tcp", "127.0.0.1:8080", "192.168.127.2:80"),
        ("127.0.0.1:5353:53/udp", "udp", "127.0.0.1:5353", "192.168.127.2:53"),
        ("2222:192.168.127.3:22", "tcp", "127.0.0.1:2222", "192.168.127.3:22"),
        (":8080:80", "tcp", ":8080", "192.168.127.2:80"),
        ("0.0.0.0:8080:192.168.127.3:80/tcp4", "tcp4", "0.0.0.0:8080", "192.168.127.3:80"),
        ("[::1]:8080:80", "tcp", "[::1]:8080", "192.168.127.2:80"),
        ("8080:[fd00::2]:80", "tcp", "127.0.0.1:8080", "[fd00::2]:80"),
        ("[::]:5353:[fd00::2]:53/udp", "udp", "[::]:5353", "[fd00::2]:53"),
        ("[fe80::1%eth0]:8080:192.168.127.3:80", "tcp", "[fe80::1%eth0]:8080", "192.168.127.3:80"),
        ("localhost:8080:80", "tcp", "localhost:8080", "192.168.127.2:80"),
        ("0:80", "tcp", "127.0.0.1:0", "192.168.127.2:80"),
    ],
)
def test_what_a_word_leaves_out_has_a_default(word: str, protocol: str, local: str, remote: str) -> None:
    assert forward_words.forwards(word, GUEST) == [PortForward(protocol, local, remote)]
    assert forward_words.locals_of(word) == [Local(protocol, local)]


def test_a_range_is_a_forward_for_each_port() -> None:
    assert forward_words.forwards("8000-8002:9000-9002/udp", GUEST) == [
        PortForward("udp", f"127.0.0.1:{8000 + n}", f"192.168.127.2:{9000 + n}") for n in range(3)
    ]
    assert len(forward_words.forwards("1-1024:1-1024", GUEST)) == 1024


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("8080", "is not a forward (allowed: [HOST:]PORT[-PORT]:[GUEST:]PORT[-PORT][/udp], such as 8080:80)"),
        ("", "is not a forward"),
        ("8080:www", "is not a forward"),
        ("::1:8080:80", "is not a forward"),
        ("8080:[fd00::g]:80", "[fd00::g] is not an address of a guest (allowed: an IPv4 address, or an IPv6"),
        ("8080:80/sctp", 'unknown protocol "sctp" (allowed: tcp, tcp4, tcp6, udp, udp4, udp6)'),
        ("8080:80/", 'unknown protocol ""'),
        ("8000-8010:80", "has 11 ports of the host and 1 of the guest (allowed: as many of each)"),
        ("8000-8010:8000-8011", "has 11 ports of the host and 12 of the guest (allowed: as many of each)"),
        ("1-1025:1-1025", "1-1025 has 1025 ports (allowed: 1024)"),
        ("9-8:9-8", "9-8 is not a range (allowed: LOW-HIGH from 1 to 65535)"),
        ("0-1:5-6", "0-1 is not a range (allowed: LOW-HIGH from 1 to 65535)"),
        ("65536:1", "65536 is not a port (allowed: 0 to 65535)"),
        ("8080:0", "port 0 of a guest (allowed: 1 to 65535)"),
        ("8080:1.2.3:80", "1.2.3 is not an address of a guest"),
        ("8080:80:90", "8080 is not an address or name of the host (allowed: an IPv4 address, an"),
        ("300.1.1.1:80:80", "300.1.1.1 is not an address or name of the host"),
        ("a b:80:80", "a b is not an address or name of the host"),
        ("[1.2.3.4]:80:80", "[1.2.3.4] is not an IPv6 address in brackets"),
    ],
)
def test_a_wrong_word_says_what_is_allowed(word: str, text: str) -> None:
    with pytest.raises(WordError) as error:
        forward_words.forwards(word, GUEST)
    assert text in str(error.value)
    assert str(error.value).startswith(f'"{word}"')


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("8080", [Local("tcp", "127.0.0.1:8080")]),
        (":53/udp", [Local("udp", ":53")]),
        ("[::1]:1-2", [Local("tcp", "[::1]:1"), Local("tcp", "[::1]:2")]),
        ("/run/x.sock", [Local("unix", "/run/x.sock")]),
        ("unix:///run/x.sock", [Local("unix", "unix:///run/x.sock")]),
    ],
)
def test_to_close_a_forward_the_host_side_is_enough(word: str, expected: list[Local]) -> None:
    assert forward_words.locals_of(word) == expected


@given(st.text(alphabet="0123456789.:-/[]audpct ٣", max_size=30))
def test_any_text_means_forwards_or_is_refused(word: str) -> None:
    try:
        found = forward_words.forwards(word, GUEST)
    except WordError:
        return
    assert 1 <= len(found) <= forward_words.MAX_RANGE
    assert [Local(each.protocol, each.local) for each in found] == forward_words.locals_of(word)


# --- the flag -----------------------------------------------------------------------------------


def test_the_flag_adds_to_the_forwards_of_the_default_mode() -> None:
    words = ("-subnet", "10.1.0.0/24", "-forward", "8080:80", "--forward=0:10.1.0.9:53/udp")
    assert build(*words)[0].access.forwards == (
        PortForward("tcp", "127.0.0.1:2222", "10.1.0.2:22"),
        PortForward("tcp", "127.0.0.1:8080", "10.1.0.2:80"),
        PortForward("udp", "127.0.0.1:0", "10.1.0.9:53"),
    )
    assert build("-forward", "2222:23")[0].access.forwards == (
        PortForward("tcp", "127.0.0.1:2222", "192.168.127.2:23"),
    ), "a flag wins"


def test_the_flag_adds_to_the_forwards_of_the_file_and_wins(file) -> None:
    text = (
        "stack: {deviceIP: 192.168.127.7, forwards: {':80': '192.168.127.2:80', ':81': '192.168.127.2:81'}}"
    )
    path = file(f"{text}\nproxy-protocol: {{':80': v1, '127.0.0.1:8080': v2}}")
    assert build("-config", path, "-forward", ":80:90", "-forward", "8080:80")[0].access.forwards == (
        PortForward("tcp", ":81", "192.168.127.2:81"),
        PortForward("tcp", ":80", "192.168.127.7:90", 1),
        PortForward("tcp", "127.0.0.1:8080", "192.168.127.7:80", 2),
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["8080"], 'forward: "8080" is not a forward (allowed: '),
        (["80:10.0.0.1:80"], 'forward: "80:10.0.0.1:80": 10.0.0.1 is not in the subnet 192.168.127.0/24'),
        (["80:80", "80:81"], 'forward: "80:81": 127.0.0.1:80 stands twice (allowed: once)'),
        (["0:80/udp", "0:81/udp"], 'forward: "0:81/udp": udp:127.0.0.1:0 stands twice'),
    ],
)
def test_a_wrong_flag_is_refused(words: list[str], text: str) -> None:
    assert refusal(*(part for word in words for part in ("-forward", word))).startswith(text)
