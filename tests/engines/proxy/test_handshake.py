"""Handshakes with proxies: what they send, how they end, whatever the pieces in which the answers come."""

import base64
import errno
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.proxy import via
from pipeline.engines.proxy.handshake import MAX_BYTES, MAX_WORDS, Destination, Handshake
from pipeline.engines.proxy.http_connect import HttpConnect
from pipeline.engines.proxy.kinds import begin
from pipeline.engines.proxy.socks5 import Socks5
from pipeline.wire import ip

GUEST = ip.parse("192.168.127.2")
NAMED = Destination("api.example.test", ip.parse("192.0.2.7"), 443, GUEST)
BARE = Destination("", ip.parse("192.0.2.7"), 443, GUEST)
BARE6 = Destination("", ip.parse("2001:db8::7"), 22, GUEST)
SOCKS, SOCKS_LOGIN = via.parse("socks5://127.0.0.1:1080"), via.parse("socks5h://me:s%3Acret@127.0.0.1:1080")
HTTP, HTTP_LOGIN = via.parse("http://127.0.0.1:3128"), via.parse("http://me:s%3Acret@[::1]:3128/")
SUCCESS = b"\5\0\0\1" + bytes(6)
OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


def talk(handshake: Handshake, *answers: bytes) -> bytes:
    """What the handshake sends before and after each answer."""
    said = b""
    for answer in (*answers, b""):
        said += handshake.to_send
        handshake.sent(len(handshake.to_send))
        handshake.feed(answer)
    return said


def socks_greeting(*methods: int) -> bytes:
    return bytes((5, len(methods), *methods))


# --- SOCKS5 -----------------------------------------------------------------------------------


def test_socks_asks_for_the_name() -> None:
    handshake = Socks5(SOCKS, NAMED)
    said = talk(handshake, b"\5\0", SUCCESS + b"220 ready")
    assert said == socks_greeting(0) + b"\5\1\0\3\x10api.example.test\x01\xbb"
    assert handshake.done
    assert handshake.rest == b"220 ready"


@pytest.mark.parametrize(
    ("destination", "where"),
    [
        (BARE, b"\1\xc0\0\2\7\x01\xbb"),
        (BARE6, b"\4" + ip.parse("2001:db8::7").to_bytes(16, "big") + b"\0\x16"),
    ],
    ids=["ipv4", "ipv6"],
)
def test_socks_asks_for_the_address_without_a_name(destination: Destination, where: bytes) -> None:
    assert talk(Socks5(SOCKS, destination), b"\5\0", SUCCESS).endswith(b"\5\1\0" + where)


def test_socks_logs_in_if_the_proxy_wants_it() -> None:
    handshake = Socks5(SOCKS_LOGIN, NAMED)
    said = talk(handshake, b"\5\2", b"\1\0", SUCCESS)
    assert said.startswith(socks_greeting(0, 2) + b"\1\2me\6s:cret\5\1\0\3")
    assert handshake.done


def test_socks_may_let_a_client_in_without_its_password() -> None:
    handshake = Socks5(SOCKS_LOGIN, NAMED)
    assert b"s:cret" not in talk(handshake, b"\5\0", SUCCESS)
    assert handshake.done


@pytest.mark.parametrize(
    ("answers", "words", "error"),
    [
        ((b"\5\xff",), "accepts no way to log in", errno.EACCES),
        ((b"\5\2",), "accepts no way to log in", errno.EACCES),
        ((b"\4\0",), "not SOCKS5", errno.ECONNREFUSED),
        ((b"HTTP/1.1 400 no\r\n",), "not SOCKS5", errno.ECONNREFUSED),
        ((b"\5\0", b"\5\1\0\1"), "general failure", errno.ECONNREFUSED),
        ((b"\5\0", b"\5\2"), "do not allow", errno.EACCES),
        ((b"\5\0", b"\5\3\0\1"), "cannot reach the network", errno.ENETUNREACH),
        ((b"\5\0", b"\5\4\0\1"), "cannot reach the host", errno.EHOSTUNREACH),
        ((b"\5\0", b"\5\5\0\1"), "refused", errno.ECONNREFUSED),
        ((b"\5\0", b"\5\6\0\1"), "TTL expired", errno.ETIMEDOUT),
        ((b"\5\0", b"\5\7\0\1"), "command CONNECT", errno.ECONNREFUSED),
        ((b"\5\0", b"\5\x08\0\1"), "kind of address", errno.ECONNREFUSED),
        ((b"\5\0", b"\5\x63\0\1"), "unknown failure 99", errno.ECONNREFUSED),
        ((b"\5\0", b"\5\0\0\x09" + bytes(9)), "not SOCKS5", errno.ECONNREFUSED),
        ((b"\5\0", b"\1\0\0\1"), "not SOCKS5", errno.ECONNREFUSED),
    ],
)
def test_socks_failures_have_words(answers: tuple[bytes, ...], words: str, error: int) -> None:
    handshake = Socks5(SOCKS, NAMED)
    talk(handshake, *answers)
    assert handshake.failure is not None
    assert words in handshake.failure.reason
    assert handshake.failure.error == error
    assert not handshake.done


def test_socks_with_a_wrong_password() -> None:
    handshake = Socks5(SOCKS_LOGIN, NAMED)
    talk(handshake, b"\5\2", b"\1\1")
    assert handshake.failure is not None
    assert "user or the password" in handshake.failure.reason


@pytest.mark.parametrize("address", [b"\1" + bytes(4), b"\4" + bytes(16), b"\3\4name"])
def test_the_tunnel_begins_after_an_address_of_any_kind(address: bytes) -> None:
    handshake = Socks5(SOCKS, NAMED)
    talk(handshake, b"\5\0", b"\5\0\0" + address + b"\0\x16rest")
    assert handshake.rest == b"rest"


# --- HTTP -------------------------------------------------------------------------------------


def test_connect_has_the_name_the_original_address_and_the_guest() -> None:
    handshake = HttpConnect(HTTP, NAMED)
    lines = talk(handshake, OK + b"220 ready").decode().split("\r\n")
    assert lines == [
        "CONNECT api.example.test:443 HTTP/1.1",
        "Host: api.example.test:443",
        "X-Envoy-Original-Dst-Host: 192.0.2.7:443",
        "X-Forwarded-For: 192.168.127.2",
        "",
        "",
    ]
    assert handshake.rest == b"220 ready"


def test_connect_has_the_address_without_a_name() -> None:
    assert talk(HttpConnect(HTTP, BARE), OK).startswith(b"CONNECT 192.0.2.7:443 HTTP/1.1\r\n")
    assert talk(HttpConnect(HTTP, BARE6), OK).startswith(b"CONNECT [2001:db8::7]:22 HTTP/1.1\r\n")


def test_connect_has_the_credentials() -> None:
    said = talk(HttpConnect(HTTP_LOGIN, NAMED), OK)
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:s:cret") + b"\r\n" in said


@pytest.mark.parametrize(
    ("answer", "words", "error"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nA: b\r\n\r\n", "answered 407 Proxy A", errno.EACCES),
        (b"HTTP/1.0 403\r\n\r\n", "answered 403", errno.EACCES),
        (b"HTTP/1.1 502 Bad\x80 \x1b[31m Gateway\r\n\r\n", "not HTTP/1", errno.ECONNREFUSED),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "answered 502 Bad Gateway", errno.EHOSTUNREACH),
        (b"HTTP/1.1 504 Late\n\n", "answered 504 Late", errno.ETIMEDOUT),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "answered 101", errno.ECONNREFUSED),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "answered 302", errno.ECONNREFUSED),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1", errno.ECONNREFUSED),
        (b"HTTP/1.1 2000 x\r\n\r\n", "not HTTP/1", errno.ECONNREFUSED),
        (b"SSH-2.0-x\r\n", "not HTTP/1", errno.ECONNREFUSED),
        (b"\5\0", "not HTTP/1", errno.ECONNREFUSED),
        (b"HTTP/1.1 200 ok\r\n" + b"A: b\r\n" * MAX_BYTES, "longer than", errno.ECONNREFUSED),
    ],
)
def test_http_failures_have_words(answer: bytes, words: str, error: int) -> None:
    handshake = HttpConnect(HTTP, NAMED)
    talk(handshake, answer)
    assert handshake.failure is not None
    assert words in handshake.failure.reason
    assert handshake.failure.error == error


def test_the_words_of_a_proxy_are_short_and_printable() -> None:
    handshake = HttpConnect(HTTP, NAMED)
    talk(handshake, b"HTTP/1.1 500 \x80\t" + b"x" * 9000 + b"\r\n\r\n")
    assert handshake.failure is not None
    assert len(handshake.failure.reason) < MAX_WORDS + 30
    assert handshake.failure.reason.isprintable()


def test_interim_answers_come_before_the_true_one() -> None:
    handshake = HttpConnect(HTTP, NAMED)
    talk(handshake, b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"first")
    assert handshake.rest == b"first"


def test_endless_interim_answers_end() -> None:
    handshake = HttpConnect(HTTP, NAMED)
    for _ in range(MAX_BYTES // 25 + 1):
        handshake.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert handshake.failure is not None
    assert "longer" in handshake.failure.reason


def test_an_end_before_the_answer() -> None:
    for proxy in (SOCKS, HTTP):
        handshake = begin(proxy, NAMED)
        handshake.feed(b"\5" if proxy is SOCKS else b"HTTP")
        handshake.end()
        assert handshake.failure is not None
        assert "ended" in handshake.failure.reason


# --- any pieces -------------------------------------------------------------------------------

WHOLE = {
    SOCKS: b"\5\0" + SUCCESS,
    SOCKS_LOGIN: b"\5\2" + b"\1\0" + b"\5\0\0\3\4name\0\1",
    HTTP: b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    HTTP_LOGIN: b"HTTP/1.0 200\n\n",
}


@given(
    proxy=st.sampled_from(list(WHOLE)),
    cuts=st.lists(st.integers(0, 80)),
    rest=st.binary(max_size=50),
)
def test_the_pieces_of_an_answer_do_not_matter(proxy: via.Via, cuts: list[int], rest: bytes) -> None:
    data = WHOLE[proxy] + rest
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    handshake, whole = begin(proxy, NAMED), begin(proxy, NAMED)
    pieces = [data[begin_:end] for begin_, end in pairwise(ends)]
    assert talk(handshake, *pieces) == talk(whole, data)
    assert handshake.done
    assert handshake.rest == whole.rest == rest


@given(proxy=st.sampled_from(list(WHOLE)), data=st.binary(max_size=300), keep=st.integers(0, 40))
def test_any_bytes_are_an_answer_or_a_failure(proxy: via.Via, data: bytes, keep: int) -> None:
    handshake, bytewise = begin(proxy, NAMED), begin(proxy, NAMED)
    data = WHOLE[proxy][:keep] + data
    handshake.feed(data)
    for at in range(len(data)):
        bytewise.feed(data[at : at + 1])
    assert (handshake.done, handshake.rest) == (bytewise.done, bytewise.rest)
    for each in (handshake, bytewise):
        each.end()
        assert each.done != (each.failure is not None)


# --- URLs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "socks5://",
            "socks4://1.2.3.4:1",
            "https://1.2.3.4:1",
            "http://1.2.3.4",
        ),
        *(
            "http://1.2.3.4:0",
            "http://1.2.3.4:65536",
            "http://1.2.3.4:1/x",
            "http://1.2.3:1",
            "http://[::g]:1",
        ),
        *("http://us er:pw@1.2.3.4:1", "http://u:p%4@1.2.3.4:1", "http://" + "u" * 256 + "@1.2.3.4:1"),
    ],
)
def test_a_wrong_url_is_not_shown(text: str) -> None:
    with pytest.raises(ValueError) as error:
        via.parse(text)
    assert "pw" not in str(error.value)


def test_credentials_are_only_in_the_url() -> None:
    assert SOCKS_LOGIN.user == b"me"
    assert SOCKS_LOGIN.password == b"s:cret"
    for text in (repr(SOCKS_LOGIN), str(SOCKS_LOGIN), SOCKS_LOGIN.text, f"{HTTP_LOGIN}"):
        assert "cret" not in text
    hidden = via.hidden("http://me:s%3Acret@[::1]:3128/")
    assert hidden == "http://me:***@[::1]:3128/"
    assert via.is_hidden(hidden)
    assert via.hidden("http://[::1]:3128") == "http://[::1]:3128"


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_user_and_password_can_be_written(user: bytes, password: bytes) -> None:
    def written(data: bytes) -> str:
        return "".join(f"%{byte:02x}" for byte in data)

    found = via.parse(f"socks5://{written(user)}:{written(password)}@1.2.3.4:1")
    assert (found.user, found.password) == (user, password)


def test_a_host_may_have_a_name_until_it_is_looked_up() -> None:
    url = "http://me:pw@Proxy.corp.test:3128"
    via.check(url)
    assert via.name_of(url) == "proxy.corp.test"
    assert via.with_address(url, "::1") == "http://me:pw@[::1]:3128"
    assert via.parse(via.with_address(url, "192.0.2.1")).address == ip.parse("192.0.2.1")
    assert via.name_of("http://192.0.2.1:3128") == via.name_of("http://[::1]:3128") == via.name_of("x") == ""
    for wrong in ("http://a..b:1", "http://1.2.3:1", "http://-a:1"):
        with pytest.raises(ValueError, match="name of a host"):
            via.check(wrong)
